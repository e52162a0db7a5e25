# Image-level labels of a data set that has none, predicted by a frozen CLIP, and how right they are.
# All that reads labels reads the CSV of this job. The check looks at the images before.

if PLAN.tags is not None:

    rule tags:
        input:
            fresh(lambda wildcards: [PLAN.tags]),
            images=PLAN.tags.inputs["lists"],
        output:
            labels=PLAN.tags.files[0],
            scores=PLAN.tags.files[1],
            sidecar=PLAN.tags.sidecar,
        log:
            LOGS / "tags.log",
        benchmark:
            BENCHMARKS / "tags.tsv"
        threads: COMPUTE.threads
        resources:
            **needs("tags"),
            gpu=GPU,
        params:
            stamp=PLAN.tags.stamp,
            settings=unseen(GRAPH.tags.settings),
            lineage=unseen(GRAPH.tags.lineage()),
            dataset=unseen(PLAN.config.dataset.model_dump()),
            compute=unseen(COMPUTE.model_dump()),
        message:
            "image-level labels are predicted"
        script:
            "../scripts/tags.py"


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
