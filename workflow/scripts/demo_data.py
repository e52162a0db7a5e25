"""Render the demo's scenes."""

from clip_wsss.jobs import job

with job(snakemake.log[0]):
    from clip_wsss.demo.build import build

    build(snakemake.params.root, snakemake.params.settings)
