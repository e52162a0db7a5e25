"""Look at all data, towers and trainings of the runs, and say what is wrong with them."""

from functools import partial

from clip_wsss.runs.jobs import here, job

p, read = snakemake.params, snakemake.input
with job(snakemake.log[0]):
    from clip_wsss.data.check import write_check
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.runs.builds import check_builds

    data = open_dataset(here(p.dataset, read.images))
    classes = 1 + len(data.vocabulary.classes)
    others = partial(check_builds, p.models, p.attention, p.entries, classes, p.prompts)
    write_check(data, p.uses, snakemake.output[0], snakemake.threads, others)
