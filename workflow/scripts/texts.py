"""Choose the template of ranked texts and write their features."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files = {name: made[name] for name in ("features", "prompt", "sharpness")}
inputs = {"lists": list(read.images), "features": [read.features]}
outputs = Made(made.sidecar, {**p.stamp, "settings": p.lineage}, files, inputs)
with job(snakemake.log[0], p.compute["threads"], [(read.sidecar, p.reads)], [outputs]):
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_clip
    from clip_wsss.prompts.texts import write_texts

    data, clip = open_dataset(here(p.dataset, read.images)), load_clip(p.model)
    write_texts(p.entry, clip, data, p.split, read.features, *files.values())
