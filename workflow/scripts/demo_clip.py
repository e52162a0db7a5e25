"""Train the demo's CLIP again, beside the shipped one."""

from clip_wsss.jobs import job

with job(snakemake.log[0]):
    from clip_wsss.demo.train import rebuild

    rebuild(snakemake.output[0], {})
