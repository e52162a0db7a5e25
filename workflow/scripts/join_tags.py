"""Write the predicted labels of all shards as one file."""

from clip_wsss.runs.jobs import Made, job

p, read, made = snakemake.params, snakemake.input, snakemake.output
out, inputs = {"labels": made.labels, "scores": made.scores}, {"scores": list(read.scores)}
makes = [Made(made.sidecar, p.stamp | {"settings": p.lineage}, out, inputs)]
reads = [(sidecar, p.stamp) for sidecar in read.sidecars]
with job(snakemake.log[0], 1, reads, makes):
    from clip_wsss.tags.tagclip import TagClipSettings
    from clip_wsss.tags.write import join_tags

    join_tags(read.scores, TagClipSettings(**p.own), made.labels, made.scores)
