"""Label the images of a split with a trained segmentor, and those that the report shows."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files = {name: file for name, file in made.items() if name != "sidecar"}
inputs = {"lists": list(read.images), "checkpoint": [read.checkpoint]}
outputs = Made(made.sidecar, {**p.stamp, "settings": p.lineage}, files, inputs, p.compute["device"])
reads = [(read.sidecar, p.reads, ["checkpoint"])]
with job(snakemake.log[0], p.compute["threads"], reads, [outputs]) as work:
    if work.needed:
        from clip_wsss.data.choice import choose
        from clip_wsss.data.datasets import open_dataset
        from clip_wsss.segmentation.predict import predict

        own = here(p.dataset, read.images)
        data = open_dataset(own)
        wanted = [data.ids(p.split), *([choose(data, **p.shown)] if p.shown else [])]
        compute = {key: p.compute[key] for key in ("threads", "device")}
        compute["workers"] = snakemake.threads
        out = dict(zip(files.values(), wanted, strict=True))
        for path, ids in out.items():
            predict(p.segmentor, p.entry, read.checkpoint, own, ids, path, **compute)
