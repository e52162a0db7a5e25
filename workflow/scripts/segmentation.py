"""Train a segmentor on masks, or on labels that are made in every step."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files = {"checkpoint": made.checkpoint, "log": made.log}
online = p.entry["labels"] == "online"
inputs = {} if online else {"masks": list(read.masks)}
inputs |= {"texts": list(read.texts)} if online or "text_head" in p.entry else {}
inputs["lists"] = list(read.images)
stamp = {**p.stamp, **p.images, "settings": p.lineage}
outputs = Made(made.sidecar, stamp, files, inputs, p.compute["device"])
reads = list(zip(read.sidecars, p.reads, strict=True))
made_of = len(read.masks)  # of which everything counts; of texts
reads[made_of:] = [(*pair, ["features"]) for pair in reads[made_of:]]
with job(snakemake.log[0], p.compute["threads"], reads, [outputs]) as work:
    if work.needed:
        from clip_wsss.segmentation.train import train

        folder, seed = Path(made.checkpoint).parent / "work", int(snakemake.wildcards.seed)
        compute = {key: p.compute[key] for key in ("threads", "device", "gpus")}
        train(
            p.entry,
            here(p.dataset, read.images),
            list(read.masks),
            seed,
            folder,
            *files.values(),
            texts=read.texts[0] if read.texts else None,
            **compute,
        )
