"""Lay VOC 2012 and SBD out as one data set."""

from clip_wsss.runs.jobs import job

with job(snakemake.log[0]):
    from clip_wsss.acquire.voc import build

    build(snakemake.params.root, dict(snakemake.input.items()), snakemake.params.sources)
