# A segmentor trained on masks or on labels that it makes itself, and its predictions.


rule segmentation:
    # A training whose masks, settings and code are what they were keeps its checkpoint. The work
    # folder (checkpoints of an interrupted training) lies outside of the outputs.
    input:
        fresh(trainings),
        images=images_of(SPLITS.pseudo),
        masks=files(masks_of_training),
        texts=files(texts_of_training),
        sidecars=sidecars(read_by_training),
    output:
        checkpoint=update(RESULTS / "segmentation/{node}/seed{seed}/checkpoint.pth"),
        log=update(RESULTS / "segmentation/{node}/seed{seed}/log.csv"),
        sidecar=update(RESULTS / "segmentation/{node}/seed{seed}/checkpoint.json"),
    log:
        LOGS / "segmentation/{node}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "segmentation/{node}/seed{seed}.tsv"
    threads: COMPUTE.threads
    resources:
        gpu=GPU * COMPUTE.gpus,
    params:
        stamp=stamp_of("segmentation"),
        entry=settings_of("segmentation"),
        lineage=lineage_of("segmentation"),
        reads=stamps(read_by_training),
        dataset=unseen(DATASET.model_dump()),
        compute=unseen(COMPUTE.model_dump()),
    script:
        "../scripts/segmentation.py"


rule inference:
    # Predictions of the validation split, and of the images that the report shows.
    input:
        fresh(lambda wildcards: [predictions(wildcards, "val")]),
        images=PLAN.images_of_inference("val"),
        checkpoint=lambda wildcards: training_of(wildcards).files[0],
        sidecar=lambda wildcards: training_of(wildcards).sidecar,
    output:
        predictions=update(RESULTS / "inference/{node}/seed{seed}/val.zip"),
        shown=update(RESULTS / "inference/{node}/seed{seed}/shown.zip"),
        sidecar=update(RESULTS / "inference/{node}/seed{seed}/val.json"),
    log:
        LOGS / "inference/{node}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "inference/{node}/seed{seed}.tsv"
    threads: threads_of_inference
    resources:
        gpu=GPU,
    params:
        stamp=lambda wildcards: PLAN.inference_stamp(GRAPH.node("inference", wildcards.node), "val"),
        entry=settings_of("inference"),
        segmentor=unseen(
            lambda wildcards: GRAPH.node("inference", wildcards.node).parents[0].settings
        ),
        lineage=lineage_of("inference"),
        reads=unseen(lambda wildcards: training_of(wildcards).stamp),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.val),
        shown=unseen(PLAN.shown),
        compute=unseen(COMPUTE.model_dump()),
    script:
        "../scripts/inference.py"


use rule inference as inference_test with:
    input:
        fresh(lambda wildcards: [predictions(wildcards, "test")]),
        images=PLAN.images_of_inference("test"),
        checkpoint=lambda wildcards: training_of(wildcards).files[0],
        sidecar=lambda wildcards: training_of(wildcards).sidecar,
    output:
        predictions=update(RESULTS / "inference/{node}/seed{seed}/test.zip"),
        sidecar=update(RESULTS / "inference/{node}/seed{seed}/test.json"),
    log:
        LOGS / "inference/{node}/seed{seed}-test.log",
    benchmark:
        BENCHMARKS / "inference/{node}/seed{seed}-test.tsv"
    params:
        stamp=lambda wildcards: PLAN.inference_stamp(
            GRAPH.node("inference", wildcards.node), "test"
        ),
        entry=settings_of("inference"),
        segmentor=unseen(
            lambda wildcards: GRAPH.node("inference", wildcards.node).parents[0].settings
        ),
        lineage=lineage_of("inference"),
        reads=unseen(lambda wildcards: training_of(wildcards).stamp),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.test),
        shown=unseen(None),
        compute=unseen(COMPUTE.model_dump()),


rule submission:
    input:
        CHECKED,
        predictions=RESULTS / "inference/{node}/seed{seed}/test.zip",
        sidecar=RESULTS / "inference/{node}/seed{seed}/test.json",
        images=images_of(SPLITS.test),
    output:
        RESULTS / "inference/{node}/seed{seed}/submission.tgz",
    log:
        LOGS / "inference/{node}/seed{seed}-submission.log",
    params:
        stamp=PLAN.code("submission"),
        reads=unseen(lambda wildcards: predictions(wildcards, "test").stamp),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.test),
    script:
        "../scripts/submission.py"
