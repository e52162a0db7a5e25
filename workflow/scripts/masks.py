"""Write the pseudo masks of a shard of images."""

from pathlib import Path

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.datasets import open_dataset
    from clip_wsss.masks import write_shard

    manifest = Path(snakemake.output[0])
    cams, workers = snakemake.input.cams, snakemake.threads
    write_shard(open_dataset(p.dataset), cams, p.entry, manifest.parent, manifest, workers)
