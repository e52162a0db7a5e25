"""Render the demo's scenes."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, job

p, made = snakemake.params, snakemake.output
outputs = Made(made.sidecar, p.stamp, {"train": made.train, "val": made.val}, {})
with job(snakemake.log[0], makes=[outputs]):
    from clip_wsss.demo.build import build

    build(Path(made.train).parents[2], p.settings)
