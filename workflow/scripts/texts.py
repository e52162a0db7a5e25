"""Choose the template of a texts entry and write its text features."""

from clip_wsss.jobs import job

p, out, features = snakemake.params, snakemake.output, snakemake.input.get("features")
with job(snakemake.log[0], p.compute["threads"]):
    from clip_wsss.clip import load_clip
    from clip_wsss.datasets import open_dataset
    from clip_wsss.prompts import write_texts

    data = open_dataset(p.dataset)
    clip = load_clip(p.model)
    words = data.vocabulary
    write_texts(
        p.entry, words, clip, data, p.split, features, out.features, out.prompt, out.sharpness
    )
