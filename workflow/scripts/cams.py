"""Write the CAMs of a shard of images."""

from clip_wsss.jobs import job

p, batch = snakemake.params, snakemake.params.compute["batch"]
with job(snakemake.log[0], p.compute["threads"]):
    from clip_wsss.cam import write_shard
    from clip_wsss.clip import load_for
    from clip_wsss.datasets import open_dataset
    from clip_wsss.shards import shard_ids

    data, out, bad = open_dataset(p.dataset), snakemake.output[0], p.dataset["on_bad_image"]
    ids = shard_ids(data.ids(p.split), snakemake.wildcards.shard)
    clip = load_for(p.entry, p.model, p.compute["device"])
    write_shard(data, ids, clip, snakemake.input.texts, p.entry, out, batch, bad)
