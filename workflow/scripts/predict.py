"""Label the images of a split with a trained segmentor, and those that the report shows."""

from pathlib import Path

from clip_wsss.jobs import job

p, checkpoint, manifest = snakemake.params, snakemake.input.checkpoint, snakemake.output[0]
with job(snakemake.log[0], p.compute["threads"]):
    from clip_wsss.choice import choose
    from clip_wsss.datasets import open_dataset
    from clip_wsss.segmentation.predict import predict

    folder, shown = Path(manifest).with_suffix(""), p.get("shown")
    compute = {key: p.compute[key] for key in ("threads", "device")}
    compute["also"] = choose(open_dataset(p.dataset), **shown) if shown else []
    compute["workers"] = snakemake.threads
    predict(p.entry, checkpoint, p.dataset, p.split, folder, manifest, **compute)
