"""Score a segmentor's predictions."""

from pathlib import Path

from clip_wsss.jobs import job

p, out = snakemake.params, snakemake.output
with job(snakemake.log[0]) as started:
    from clip_wsss.datasets import open_dataset
    from clip_wsss.metrics import evaluate_labels
    from clip_wsss.provenance import write_provenance

    data, folder = open_dataset(p.dataset), Path(snakemake.input.predictions).parent
    labels = folder / "predictions"
    evaluate_labels(data, p.split, labels, "segmentation", out.json, out.counts, p.meta)
    write_provenance(out.provenance, [snakemake.input.predictions], p.settings, p.device, started)
