"""Gather the measurements into tables."""

from pathlib import Path

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.config import read_yaml
    from clip_wsss.runs import read_runs
    from clip_wsss.tables import write_tables

    runs = read_runs(p.config, read_yaml(snakemake.input.schema))
    out = Path(snakemake.output[0]).parent
    write_tables(runs, p.config, p.root, out)
