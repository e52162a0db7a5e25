"""Add the images of VOC's test split."""

from clip_wsss.runs.jobs import job

with job(snakemake.log[0]):
    from clip_wsss.acquire.voc import build_test

    build_test(snakemake.params.root, dict(snakemake.input.items()), snakemake.params.sources)
