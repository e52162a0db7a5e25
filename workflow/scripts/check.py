"""Look at all data and towers that the runs will use, and say what is wrong with them."""

from functools import partial

from clip_wsss.runs.jobs import here, job

p, read = snakemake.params, snakemake.input
with job(snakemake.log[0]):
    from clip_wsss.data.check import write_check
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.check import check_models

    data = open_dataset(here(p.dataset, read.images))
    others = partial(check_models, p.models, p.attention)
    write_check(data, p.uses, snakemake.output[0], snakemake.threads, others)
