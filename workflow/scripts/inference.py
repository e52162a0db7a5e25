"""Label the images of a split with trained segmentors, and those that the report shows."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
names = [name for name, _ in made.items() if name != "sidecar"]
makes, reads = [], []
for i, one in enumerate(p.wanted):
    out = {name: made[name][i] for name in names}
    inputs = {"lists": list(read.images), "checkpoint": [read.checkpoint[i]]}
    makes.append(Made(made.sidecar[i], one["stamp"], out, inputs, p.compute["device"]))
    reads.append((read.sidecar[i], one["reads"], ["checkpoint"]))
with job(snakemake.log[0], p.compute["threads"], reads, makes) as work:
    if work.needed:
        from clip_wsss.data.choice import choose
        from clip_wsss.data.datasets import open_dataset
        from clip_wsss.segmentation.predict import predict

        own = here(p.dataset, read.images)
        data = open_dataset(own)
        ids = [data.ids(p.split), *([choose(data, **p.shown)] if p.shown else [])]
        compute = {key: p.compute[key] for key in ("threads", "device")}
        compute["workers"] = snakemake.threads
        for i, (one, product) in enumerate(zip(p.wanted, makes, strict=True)):
            if Path(product.sidecar) in work.missing:
                for path, some in zip(product.outputs.values(), ids, strict=True):
                    segmentor, entry, checkpoint = (
                        one["segmentor"],
                        one["entry"],
                        read.checkpoint[i],
                    )
                    predict(segmentor, entry, checkpoint, own, some, path, **compute)
