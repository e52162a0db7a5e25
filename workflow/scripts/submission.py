"""Pack the predictions of the test images for the evaluation server."""

from clip_wsss.runs.jobs import here, job

p, read = snakemake.params, snakemake.input
with job(snakemake.log[0], reads=[(read.sidecar, p.reads)]):
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.segmentation.submission import write_submission

    ids = open_dataset(here(p.dataset, read.images)).ids(p.split)
    write_submission(ids, read.predictions, snakemake.output[0])
