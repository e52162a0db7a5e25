"""Predict how likely each class is in each image of a shard."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
device, stamp = p.compute["device"], p.stamp | p.images | {"settings": p.lineage}
inputs = {"lists": list(read.images)}
whole = Made(made.sidecar, stamp, {"scores": made.scores}, inputs, device)
with job(snakemake.log[0], p.compute["threads"], makes=[whole]):
    from clip_wsss.core.finished import finished
    from clip_wsss.core.shards import shard_ids
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_clip
    from clip_wsss.prompts.texts import text_features
    from clip_wsss.tags.tagclip import TagClipSettings
    from clip_wsss.tags.write import write_tags

    own = TagClipSettings(**p.dataset["tagclip"])
    clip = load_clip(p.settings["model"], device=device)
    texts = text_features(clip, **p.settings["texts"])
    data = open_dataset(here(p.dataset, read.images))
    ids = dict.fromkeys(id_ for split in p.settings["splits"] for id_ in data.ids(split))
    ids = shard_ids(list(ids), snakemake.wildcards.shard)
    with finished(made.scores, whole.plan, data.version) as kept:
        write_tags(data, ids, clip, texts, own, made.scores, kept)
