"""Score pseudo masks, and the calibration of their confidence."""

from pathlib import Path

from clip_wsss.jobs import job

p, out = snakemake.params, snakemake.output
with job(snakemake.log[0]) as started:
    from clip_wsss.datasets import open_dataset
    from clip_wsss.metrics import evaluate_labels
    from clip_wsss.provenance import write_provenance

    data, folder = open_dataset(p.dataset), Path(snakemake.input.manifests[0]).parent
    confidence = {"confidence_folder": folder / "confidence", "out_confidence": out.confidence}
    labels, meta = folder / "labels", p.meta
    evaluate_labels(data, p.split, labels, "mask", out.json, out.counts, meta, **confidence)
    write_provenance(out.provenance, snakemake.input.manifests, p.settings, p.device, started)
