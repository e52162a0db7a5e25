# Initial maps and their refinement by an affinity: one forward pass of an image gives the maps of all
# cams and affinities that share a trunk (`clip_wsss.runs.graph.Pass`).
#
# Everything below a job that runs, runs too. So what is there, made as planned, has rules of its own,
# and one rule makes all that is missing: nothing that depends on the others runs for a new variant.
# Which variants a rule has is in its name, in bits: in the process of a job, where its outputs
# were just deleted, the name says what the disk cannot.

for name, passes in rules_of("maps", GRAPH.passes.values()).items():
    nodes = [node for _, own in passes for node in own]

    rule:
        name:
            name
        input:
            fresh(shards_of(nodes)),
            images=images_of(SPLITS.pseudo),
            texts=files(texts_of_maps(passes)),
            sidecars=sidecars(texts_of_maps(passes)),
        output:
            maps=map_files(nodes, "npz"),
            sidecars=map_files(nodes, "json"),
        log:
            LOGS / f"maps/{folder_of(name)}/{{shard}}.log",
        benchmark:
            BENCHMARKS / f"maps/{folder_of(name)}/{{shard}}.tsv"
        threads: COMPUTE.threads
        resources:
            **needs("maps"),
            gpu=GPU,
        params:
            stamp=PLAN.pass_stamp(passes[0][0]),
            passes=unseen([PLAN.variants(*one) for one in passes]),
            reads=stamps(texts_of_maps(passes)),
            images=image_files(SPLITS.pseudo),
            dataset=unseen(DATASET.model_dump()),
            split=unseen(SPLITS.pseudo),
            compute=unseen(COMPUTE.model_dump()),
        message:
            f"maps: {plural(nodes, 'variant')}, shard {{wildcards.shard}}"
        script:
            "../scripts/maps.py"
