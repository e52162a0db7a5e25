"""Train a segmentor on masks, or on labels that are made in every step."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files = {"checkpoint": made.checkpoint, "log": made.log}
online = p.entry["labels"] == "online"
inputs = {"texts": list(read.texts)} if online else {"masks": list(read.masks)}
inputs["lists"] = list(read.images)
outputs = Made(made.sidecar, {**p.stamp, "settings": p.lineage}, files, inputs, p.compute["device"])
wanted = [["features"]] if online else []  # of texts; of masks everything
reads = [(*pair, *wanted) for pair in zip(read.sidecars, p.reads, strict=True)]
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
