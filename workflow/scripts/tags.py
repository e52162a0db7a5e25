"""Predict the image-level labels of a data set."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
device, stamp = p.compute["device"], p.stamp | {"settings": p.lineage}
out = {"labels": made.labels, "scores": made.scores}
makes = [Made(made.sidecar, stamp, out, {"lists": list(read.images)}, device)]
with job(snakemake.log[0], p.compute["threads"], makes=makes):
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_clip
    from clip_wsss.prompts.texts import text_features
    from clip_wsss.tags.tagclip import TagClipSettings
    from clip_wsss.tags.write import write_tags

    own = TagClipSettings(**p.dataset["tagclip"])
    clip = load_clip(p.settings["model"], device=device)
    texts = text_features(clip, **p.settings["texts"])
    data = open_dataset(here(p.dataset, read.images))
    write_tags(data, p.settings["splits"], clip, texts, own, made.labels, made.scores)
