"""Label the images of a split with a trained segmentor."""

from pathlib import Path

from clip_wsss.jobs import job

p, checkpoint, manifest = snakemake.params, snakemake.input.checkpoint, snakemake.output[0]
with job(snakemake.log[0], p.compute["threads"]):
    from clip_wsss.segmentation.predict import predict

    folder = Path(manifest).with_suffix("")
    compute = {key: p.compute[key] for key in ("threads", "device")}
    predict(p.entry, checkpoint, p.dataset, p.split, folder, manifest, **compute)
