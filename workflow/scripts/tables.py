"""Gather the measurements into tables."""

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.plan import make_plan
    from clip_wsss.tables import write_tables

    write_tables(make_plan(p.config, "config", p.scripts))
