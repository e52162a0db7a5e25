"""Score the initial or the refined maps."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
files = {"json": made.json, "counts": made.counts}
inputs = {"lists": list(read.images), "read": list(read.read)}
outputs = Made(made.sidecar, {**p.stamp, "settings": p.lineage}, files, inputs)
reads = list(zip(read.sidecars, p.reads, strict=True))
with job(snakemake.log[0], 1, reads, [outputs]) as work:
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.runs.provenance import write_provenance
    from clip_wsss.score.metrics import evaluate_maps

    data, meta = (
        open_dataset(here(p.dataset, read.images)),
        {"split": p.split, "precision": p.precision},
    )
    meta["stage"] = snakemake.wildcards.stage
    ids, maps = data.ids(p.split), list(read.read)
    evaluate_maps(data, ids, maps, p.powers, *files.values(), meta, p.sweep)
    write_provenance(made.provenance, read.read, p.lineage, p.device, work.started)
