"""Write the maps of a shard of images: every cam and affinity of a pass."""

from clip_wsss.runs.jobs import Made, here, job

p, read, made, v = snakemake.params, snakemake.input, snakemake.output, snakemake.params.variants
inputs = {"lists": list(read.images), "texts": list(read.texts)}
both = zip(made.sidecars, made.maps, v["stamps"], strict=True)
makes = [Made(s, stamp, {"maps": f}, inputs, p.compute["device"]) for s, f, stamp in both]
reads = [(read.sidecar[0], p.reads, ["features"])] if p.reads else []
with job(snakemake.log[0], p.compute["threads"], reads, makes):
    from clip_wsss.cams.passes import CamVariant, read_text_features, write_pass
    from clip_wsss.core.shards import shard_ids
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_for
    from clip_wsss.models.tower import open_tower
    from clip_wsss.prompts.texts import encode

    data, clip = (
        open_dataset(here(p.dataset, read.images)),
        load_for(p.cam, p.cam["model"], p.compute["device"]),
    )
    ids = shard_ids(data.ids(p.split), snakemake.wildcards.shard)
    texts = {
        name: encode(clip, **one) if one else read_text_features(read.texts[0], clip)
        for name, one in v["texts"].items()
    }
    cams = {name: CamVariant(**one) for name, one in v["cams"].items()}
    out = dict(zip(v["nodes"], made.maps, strict=True))
    towers = {name: open_tower(one, p.compute["device"]) for name, one in v["towers"].items()}
    bad = p.dataset["on_bad_image"]
    write_pass(data, ids, clip, texts, cams, out, p.compute["batch"], bad, towers)
