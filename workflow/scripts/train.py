"""Train a segmentor on pseudo masks."""

from pathlib import Path

from clip_wsss.jobs import job

p, inputs, out = snakemake.params, snakemake.input, snakemake.output
with job(snakemake.log[0], p.compute["threads"]):
    from clip_wsss.segmentation.train import train

    manifests, seed = list(inputs.manifests), int(snakemake.wildcards.seed)
    masks, work = Path(manifests[0]).parent, Path(out.checkpoint).parent / "work"
    compute = {key: p.compute[key] for key in ("threads", "device", "gpus")}
    train(p.entry, p.dataset, manifests, masks, seed, work, out.checkpoint, out.log, **compute)
