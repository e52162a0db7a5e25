"""Choose the template of a texts entry and write its text features."""

from clip_wsss.jobs import job

with job(snakemake.log[0], snakemake.params.compute["threads"]):
    from clip_wsss.prompts import write_texts

    write_texts(
        snakemake.params.entry,
        snakemake.params.dataset,
        snakemake.params.split,
        snakemake.params.model,
        snakemake.input.get("features") or None,
        snakemake.output,
    )
