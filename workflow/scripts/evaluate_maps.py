"""Score the initial CAMs or the refined maps."""

from clip_wsss.jobs import job

p, w, out = snakemake.params, snakemake.wildcards, snakemake.output
with job(snakemake.log[0]) as started:
    from clip_wsss.datasets import open_dataset
    from clip_wsss.metrics import evaluate_cams
    from clip_wsss.provenance import write_provenance

    data = open_dataset(p.dataset)
    cams, power = snakemake.input.cams, float(w.power)
    ids = data.ids(p.split)
    evaluate_cams(data, ids, cams, w.stage, p.powers, power, out.json, out.counts, p.meta)
    write_provenance(out.provenance, snakemake.input.cams, p.settings, p.device, started)
