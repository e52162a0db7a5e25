"""Write CLIP's features of the images that rank the templates."""

from clip_wsss.runs.jobs import Made, here, job

p, made = snakemake.params, snakemake.output
read = snakemake.input
stamp, inputs = {**p.stamp, "settings": p.lineage}, {"lists": list(read.images)}
outputs = Made(made.sidecar, stamp, {"features": made.features}, inputs, p.compute["device"])
with job(snakemake.log[0], p.compute["threads"], makes=[outputs]):
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_clip
    from clip_wsss.prompts.texts import write_image_features

    clip = load_clip(p.model, device=p.compute["device"])
    data, batch = open_dataset(here(p.dataset, read.images)), p.compute["batch"]
    write_image_features(data, p.split, clip, made.features, batch)
