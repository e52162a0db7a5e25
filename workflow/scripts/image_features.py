"""Write CLIP's features of the images that rank the templates."""

from clip_wsss.jobs import job

with job(snakemake.log[0], snakemake.params.compute["threads"]):
    from clip_wsss.prompts import write_image_features

    write_image_features(
        snakemake.params.dataset,
        snakemake.params.split,
        snakemake.params.model,
        snakemake.output[0],
        snakemake.params.compute,
    )
