"""Score masks with the calibration of their confidence, or a segmentor's predictions."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files = {name: file for name, file in made.items() if name not in ("provenance", "sidecar")}
inputs = {"lists": list(read.images), "read": list(read.read)}
outputs = Made(made.sidecar, {**p.stamp, "settings": p.lineage}, files, inputs)
reads = list(zip(read.sidecars, p.reads, strict=True))
with job(snakemake.log[0], 1, reads, [outputs]) as work:
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.runs.provenance import write_provenance
    from clip_wsss.score.metrics import evaluate_labels

    data, meta = (
        open_dataset(here(p.dataset, read.images)),
        {"precision": p.precision, "seed": p.seed},
    )
    out, archives = list(files.values()), list(read.read)
    evaluate_labels(data, p.split, archives, p.stage, *out[:2], meta, *out[2:])
    write_provenance(made.provenance, archives, p.lineage, p.device, work.started)
