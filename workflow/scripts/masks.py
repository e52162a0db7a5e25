"""Write the masks of a shard of images: from maps, from the data set, or from other code."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
inputs = {"lists": list(read.images), "maps": list(read.maps)}
inputs |= {"texts": list(read.texts)} if read.texts else {}
stamp = {**p.stamp, **p.images, "settings": p.lineage}
device = p.compute["device"] if "towers" in (p.seen or {}) else None
outputs = Made(made.sidecar, stamp, {"masks": made.masks}, inputs, device)
names = [["maps"]] * len(read.maps) + [["features"]] * len(read.texts)
reads = [*zip(read.sidecars, p.reads, names, strict=True)]
with job(snakemake.log[0], 1, reads, [outputs]) as work:
    if work.needed:
        from clip_wsss.core.finished import finished
        from clip_wsss.core.shards import shard_ids
        from clip_wsss.data.datasets import open_dataset
        from clip_wsss.masks.write import write_masks

        data = open_dataset(here(p.dataset, read.images))
        ids = shard_ids(data.ids(p.split), snakemake.wildcards.shard)
        device = p.compute["device"]
        seen = p.seen and {**p.seen, "file": next(iter(read.texts), None)}
        where = read.maps, made.masks
        with finished(made.masks, outputs.plan, data.version) as kept:
            write_masks(data, ids, p.entry, *where, snakemake.threads, device, seen, kept)
