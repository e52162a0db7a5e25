# Initial maps and their refinement by an affinity: one forward pass of an image gives the maps of all
# cams and affinities that share a trunk (`clip_wsss.runs.graph.Pass`).
#
# Everything below a job that runs, runs too. So the variants of a pass are split over two rules:
# those that are there, made as planned, and all others. A new variant is a pass of its own then, and
# nothing that depends on the others runs. Which variants a rule has stands in its name, in bits: in
# the process of a job, where its outputs were just deleted, the name says what the disk cannot.


for one in GRAPH.passes.values():
    for mask in halves(f"maps_{one.name}", one):

        rule:
            name:
                f"maps_{one.name}_{mask:x}"
            input:
                fresh(shards_of_pass(one.subset(mask))),
                images=images_of(SPLITS.pseudo),
                texts=[PLAN.texts(one.texts).files[0]] if one.texts else [],
                sidecar=[PLAN.texts(one.texts).sidecar] if one.texts else [],
            output:
                maps=map_files(one.subset(mask), "npz"),
                sidecars=map_files(one.subset(mask), "json"),
            log:
                LOGS / f"maps/{one.name}-{mask:x}/{{shard}}.log",
            benchmark:
                BENCHMARKS / f"maps/{one.name}-{mask:x}/{{shard}}.tsv"
            threads: COMPUTE.threads
            resources:
                gpu=GPU,
            params:
                stamp=PLAN.pass_stamp(one),
                variants=unseen(PLAN.variants(one, one.subset(mask))),
                reads=unseen(PLAN.texts(one.texts).stamp if one.texts else None),
                cam=unseen(one.cam),
                dataset=unseen(DATASET.model_dump()),
                split=unseen(SPLITS.pseudo),
                compute=unseen(COMPUTE.model_dump()),
            script:
                "../scripts/maps.py"
