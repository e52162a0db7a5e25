"""Gather the measurements into tables."""

from pathlib import Path

from clip_wsss.jobs import job, prefix_of

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.plan import make_plan
    from clip_wsss.tables import write_tables

    root = prefix_of(Path(snakemake.output[0]).parents[1], p.root) / p.root
    write_tables(make_plan(p.config, root=root, scripts=p.scripts))
