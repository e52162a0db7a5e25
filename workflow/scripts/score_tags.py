"""Score predicted image-level labels by the true ones."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
inputs = {"lists": list(read.images), "read": [read.labels]}
makes = [Made(made.sidecar, p.stamp, {"json": made.json}, inputs)]
with job(snakemake.log[0], 1, [(read.tags, p.reads)], makes):
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.score.tags import measure_tags

    data = open_dataset(here(p.dataset, [*read.images, read.labels]))
    measure_tags(data, p.split, read.scores, made.json)
