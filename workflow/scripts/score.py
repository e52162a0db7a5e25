"""Score maps, masks or predictions: those whose measurement is not there yet."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files, sidecars, confidences = iter(read.read), iter(read.sidecars), iter(made.confidence)
makes, reads, measured = [], [], []
for i, one in enumerate(p.measured):
    own = [next(files) for _ in one["reads"]]
    reads += [(next(sidecars), stamp) for stamp in one["reads"]]
    out = {"json": made.json[i], "counts": made.counts[i]}
    if one["stage"] == "mask":
        out["confidence"] = next(confidences)
    makes.append(
        Made(made.sidecar[i], one["stamp"], out, {"lists": list(read.images), "read": own})
    )
    measured.append((one, own, out, made.provenance[i]))
with job(snakemake.log[0], 1, reads, makes) as work:
    missing = [
        one
        for one, product in zip(measured, makes, strict=True)
        if Path(product.sidecar) in work.missing or not Path(one[-1]).exists()
    ]
    if missing:
        from clip_wsss.data.datasets import open_dataset
        from clip_wsss.runs.provenance import write_provenance
        from clip_wsss.score.metrics import Measurement, measure

        keys = ("stage", "precision", "seed", "powers", "sweep")
        measurements = [
            Measurement(read=own, **out, **{key: one[key] for key in keys})
            for one, own, out, _ in missing
        ]
        data = open_dataset(here(p.dataset, read.images))
        measure(data, p.split, measurements, snakemake.threads)
        for one, own, _, provenance in missing:
            write_provenance(provenance, own, one["lineage"], started=work.started)
