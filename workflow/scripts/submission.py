"""Pack the predictions of the test images for the evaluation server."""

from pathlib import Path

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.datasets import open_dataset
    from clip_wsss.segmentation.submission import write_submission

    folder = Path(snakemake.input[0]).with_suffix("")
    write_submission(open_dataset(p.dataset).ids(p.split), folder, snakemake.output[0])
