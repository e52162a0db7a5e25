# Image-level labels of a data set that has none, predicted by a frozen CLIP, and how right they are.
# All that reads labels reads the CSV of `join_tags`. The check looks at the images before.

if PLAN.tags is not None:

    rule tags:
        input:
            fresh(lambda wildcards: [PLAN.tag_shard(GRAPH.tags, wildcards.shard)]),
            images=PLAN.tag_shard(GRAPH.tags, GRAPH.shards[0]).inputs["lists"],
        output:
            scores=RESULTS / GRAPH.tags.folder / "{shard}.csv",
            sidecar=RESULTS / GRAPH.tags.folder / "{shard}.json",
        log:
            LOGS / "tags/{shard}.log",
        benchmark:
            BENCHMARKS / "tags/{shard}.tsv"
        threads: COMPUTE.threads
        resources:
            **needs("tags"),
            gpu=GPU,
        params:
            stamp=PLAN.tags.stamp,
            settings=unseen(GRAPH.tags.settings),
            lineage=unseen(GRAPH.tags.lineage()),
            images=image_files(*GRAPH.tags.settings["splits"]),
            dataset=unseen(PLAN.config.dataset.model_dump()),
            compute=unseen(COMPUTE.model_dump()),
        message:
            "image-level labels are predicted, shard {wildcards.shard}"
        script:
            "../scripts/tags.py"

    rule join_tags:
        input:
            fresh(lambda wildcards: [PLAN.tags]),
            scores=[one.files[0] for one in PLAN.tags.inputs["scores"]],
            sidecars=[one.sidecar for one in PLAN.tags.inputs["scores"]],
        output:
            labels=PLAN.tags.files[0],
            scores=PLAN.tags.files[1],
            sidecar=PLAN.tags.sidecar,
        log:
            LOGS / "join_tags.log",
        benchmark:
            BENCHMARKS / "join_tags.tsv"
        resources:
            **needs("tables"),
        params:
            stamp=PLAN.tags.stamp,
            lineage=unseen(GRAPH.tags.lineage()),
            own=unseen(PLAN.config.dataset.tagclip.model_dump()),
        message:
            "image-level labels of all shards"
        script:
            "../scripts/join_tags.py"


if PLAN.tag_score is not None:

    rule score_tags:
        input:
            fresh(lambda wildcards: [PLAN.tag_score]),
            images=PLAN.truth_of_tags,
            labels=PLAN.tags.files[0],
            scores=PLAN.tags.files[1],
            tags=PLAN.tags.sidecar,
        output:
            json=PLAN.tag_score.files[0],
            sidecar=PLAN.tag_score.sidecar,
        log:
            LOGS / "score_tags.log",
        benchmark:
            BENCHMARKS / "score_tags.tsv"
        resources:
            **needs("score"),
        params:
            stamp=PLAN.tag_score.stamp,
            reads=unseen(PLAN.tags.stamp),
            dataset=unseen(DATASET.model_dump()),
            split=unseen(SPLITS.score),
        message:
            "scores: predicted labels"
        script:
            "../scripts/score_tags.py"
