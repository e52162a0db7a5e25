"""Label images by the makers of finished trainings that make their labels themselves."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
texts, sidecars = iter(read.texts), iter(read.texts_sidecars)
makes, reads, own = [], [], []
for i, one in enumerate(p.wanted):
    own.append([next(texts) for _ in one["texts"]])
    inputs = {"lists": list(read.images), "checkpoint": [read.checkpoint[i]], "texts": own[i]}
    out = {"labels": made.labels[i]}
    makes.append(Made(made.sidecar[i], one["stamp"], out, inputs, p.compute["device"]))
    reads.append((read.sidecar[i], one["reads"], ["checkpoint"]))
    reads += [(next(sidecars), stamp, ["features"]) for stamp in one["texts"]]
with job(snakemake.log[0], p.compute["threads"], reads, makes) as work:
    if work.needed:
        from clip_wsss.data.datasets import open_dataset
        from clip_wsss.segmentation.predict import label

        dataset = here(p.dataset, read.images)
        ids = open_dataset(dataset).ids(p.split)
        compute = {key: p.compute[key] for key in ("threads", "device")}
        compute["workers"] = snakemake.threads
        for i, (one, product) in enumerate(zip(p.wanted, makes, strict=True)):
            if Path(product.sidecar) in work.missing:
                segmentor, entry, checkpoint = one["segmentor"], one["entry"], read.checkpoint[i]
                out, features = made.labels[i], next(iter(own[i]), None)
                label(segmentor, entry, checkpoint, dataset, ids, out, features, **compute)
