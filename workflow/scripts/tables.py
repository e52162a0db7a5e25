"""Gather the measurements into tables."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, job, prefix_of

p, read, made = snakemake.params, snakemake.input, snakemake.output
folder = Path(made.sidecar).parents[1]
files = {Path(file).relative_to(folder).as_posix(): file for file in made.tables}
outputs = Made(made.sidecar, p.stamp, files, {"scores": list(read.scores)})
with job(snakemake.log[0], makes=[outputs]):
    from clip_wsss.runs.plan import make_plan
    from clip_wsss.tables.write import write_tables

    root = prefix_of(folder, p.root) / p.root
    write_tables(make_plan(p.config, root=root, scripts=p.scripts))
