"""Lay COCO 2014 out as a VOC-format data set."""

from clip_wsss.runs.jobs import job

with job(snakemake.log[0]):
    from clip_wsss.acquire.coco import build

    params = snakemake.params
    build(
        params.root,
        dict(snakemake.input.items()),
        params.sources,
        params.vocabulary,
        snakemake.output.labels,
        params.workers,
    )
