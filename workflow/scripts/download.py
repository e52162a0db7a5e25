"""Download one archive, or check its local copy, and write its receipt."""

from clip_wsss.runs.jobs import job

with job(snakemake.log[0]):
    from clip_wsss.acquire.download import acquire

    acquire(snakemake.wildcards.source, snakemake.params.sources, snakemake.output[0])
