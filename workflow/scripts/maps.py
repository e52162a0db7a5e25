"""Write the maps of a shard of images: every cam and affinity of some passes."""

from contextlib import ExitStack

from clip_wsss.runs.jobs import Made, here, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
texts, both, makes, jobs = iter(read.texts), zip(made.sidecars, made.maps, strict=True), [], []
for one in p.passes:
    own, out = [next(texts)] if one["ranked"] else [], {}
    inputs = {"lists": list(read.images), "texts": own}
    for node, stamp in zip(one["nodes"], one["stamps"], strict=True):
        sidecar, out[node] = next(both)
        makes.append(
            Made(sidecar, stamp | p.images, {"maps": out[node]}, inputs, p.compute["device"])
        )
    jobs.append((one, own, out, makes[-len(out) :]))
reads = [(*pair, ["features"]) for pair in zip(read.sidecars, p.reads, strict=True)]
threads = p.compute["threads"]
with job(snakemake.log[0], threads, reads, makes), ExitStack() as stack:
    from clip_wsss.cams.passes import CamVariant, read_text_features, write_pass
    from clip_wsss.core.finished import finished
    from clip_wsss.core.shards import shard_ids
    from clip_wsss.data.datasets import open_dataset
    from clip_wsss.models.clip import load_for
    from clip_wsss.models.opening import open_tower
    from clip_wsss.prompts.texts import text_features

    data = open_dataset(here(p.dataset, read.images))
    ids = shard_ids(data.ids(p.split), snakemake.wildcards.shard)
    for one, own, out, whole in jobs:
        clip = load_for(one["cam"], one["cam"]["model"], p.compute["device"])
        features = {
            name: text_features(clip, **text) if text else read_text_features(own[0], clip)
            for name, text in one["texts"].items()
        }
        cams = {name: CamVariant(**cam) for name, cam in one["cams"].items()}
        towers = {name: open_tower(own, p.compute["device"]) for name, own in one["towers"].items()}
        # Until the job ends: what it wrote goes with it.
        plan = " ".join(made.plan for made in whole)
        kept = stack.enter_context(finished(next(iter(out.values())), plan, data.version))
        batch, workers = p.compute["batch"], p.compute["workers"]
        write_pass(data, ids, clip, features, cams, out, batch, towers, kept, workers)
