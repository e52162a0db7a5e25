"""Write CLIP's features of the images that rank the templates, and choose templates by them."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
device, lists = p.compute["device"], {"lists": list(read.images)}
images = [one for one in p.wanted if one["ranked_by"] is None]
texts = [one for one in p.wanted if one["ranked_by"] is not None]
features = dict(zip(p.others, read.features, strict=True))  # by node, those of other jobs first
features |= zip([one["name"] for one in images], made.image_features, strict=True)
names, sidecars = ("features", "prompt", "sharpness"), iter(made.sidecars)
columns = [made[name] for name in names]
files = [dict(zip(names, own, strict=True)) for own in zip(*columns, strict=True)]
makes = []
for one in images:
    out = {"features": features[one["name"]]}
    makes.append(Made(next(sidecars), one["stamp"], out, lists, device))
for one, out in zip(texts, files, strict=True):
    inputs = lists | {"features": [features[one["ranked_by"]]]}
    makes.append(Made(next(sidecars), one["stamp"], out, inputs))
reads = list(zip(read.sidecars, p.reads, strict=True))
with job(snakemake.log[0], p.compute["threads"], reads, makes):
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_clip
    from clip_wsss.prompts.texts import write_image_features, write_texts

    data = open_dataset(here(p.dataset, read.images))
    for one in images:
        clip = load_clip(one["model"], device=device)
        write_image_features(data, p.split, clip, features[one["name"]])
    for one, out in zip(texts, files, strict=True):
        clip = load_clip(one["model"])
        own = features[one["ranked_by"]]
        write_texts(one["entry"], clip, data, p.split, own, *out.values())
