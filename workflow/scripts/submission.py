"""Pack the predictions of the test images for the evaluation server."""

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.datasets import open_dataset
    from clip_wsss.segmentation.submission import write_submission

    ids = open_dataset(p.dataset).ids(p.split)
    write_submission(ids, snakemake.input.predictions, snakemake.output[0])
