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
        **needs("segmentation"),
        gpu=GPU * COMPUTE.gpus,
    params:
        stamp=stamp_of("segmentation"),
        entry=settings_of("segmentation"),
        lineage=lineage_of("segmentation"),
        reads=stamps(read_by_training),
        images=image_files(SPLITS.pseudo),
        dataset=unseen(DATASET.model_dump()),
        compute=unseen(COMPUTE.model_dump()),
    message:
        "training: {wildcards.node}, seed {wildcards.seed}"
    script:
        "../scripts/segmentation.py"


# Predictions of the validation split, and of the images that the report shows. A job takes its share
# of all trainings and leaves predictions as they are that would come out the same.
for share, predicted in enumerate(PLAN.shares(PLAN.predicted if PLAN.val else []), start=1):
    if predicted:
        free = unused(f"inference-{share}")

        rule:
            name:
                f"inference_{share}"
            input:
                fresh(predictions(predicted, "val")),
                images=PLAN.images_of_inference("val"),
                checkpoint=files(trained(predicted)),
                sidecar=sidecars(trained(predicted)),
            output:
                predictions=predicted_files(predicted, "val.zip"),
                shown=predicted_files(predicted, "shown.zip"),
                sidecar=predicted_files(predicted, "val.json"),
            log:
                LOGS / f"{free}.log",
            benchmark:
                BENCHMARKS / f"{free}.tsv"
            threads: threads_of_inference(predicted)
            resources:
                **needs("inference"),
                gpu=GPU,
            params:
                stamp=PLAN.predictions_stamp("val"),
                wanted=unseen([PLAN.prediction(*one, "val") for one in predicted]),
                dataset=unseen(DATASET.model_dump()),
                split=unseen(SPLITS.val),
                shown=unseen(PLAN.shown),
                compute=unseen(COMPUTE.model_dump()),
            message:
                f"predictions of {plural(predicted, 'training')}"
            script:
                "../scripts/inference.py"


# The labels that a training which makes its own gives the scored images in the end, in such shares.
for share, labelled in enumerate(PLAN.shares(PLAN.labelled), start=1):
    if labelled:
        free = unused(f"labels-{share}")

        rule:
            name:
                f"labels_{share}"
            input:
                fresh(predictions(labelled, "labels")),
                images=PLAN.images_of_inference("labels"),
                checkpoint=files(trained(labelled)),
                sidecar=sidecars(trained(labelled)),
                texts=files(texts_of_labels(labelled)),
                texts_sidecars=sidecars(texts_of_labels(labelled)),
            output:
                labels=predicted_files(labelled, "labels.zip"),
                sidecar=predicted_files(labelled, "labels.json"),
            log:
                LOGS / f"{free}.log",
            benchmark:
                BENCHMARKS / f"{free}.tsv"
            threads: threads_of_inference(labelled)
            resources:
                **needs("inference"),
                gpu=GPU,
            params:
                stamp=PLAN.predictions_stamp("labels"),
                wanted=unseen([PLAN.prediction(*one, "labels") for one in labelled]),
                dataset=unseen(DATASET.model_dump()),
                split=unseen(SPLITS.score),
                compute=unseen(COMPUTE.model_dump()),
            message:
                f"final labels of {plural(labelled, 'training')}"
            script:
                "../scripts/labels.py"


# Predictions of the test split, which only a submission asks for.
for node, seed in PLAN.predicted if SPLITS.test is not None else []:

    rule:
        name:
            f"inference_test_{node.key[:8]}_{seed}"
        input:
            fresh(predictions([(node, seed)], "test")),
            images=PLAN.images_of_inference("test"),
            checkpoint=files(trained([(node, seed)])),
            sidecar=sidecars(trained([(node, seed)])),
        output:
            predictions=predicted_files([(node, seed)], "test.zip"),
            sidecar=predicted_files([(node, seed)], "test.json"),
        log:
            LOGS / f"inference/{node.name}/seed{seed}-test.log",
        benchmark:
            BENCHMARKS / f"inference/{node.name}/seed{seed}-test.tsv"
        threads: threads_of_inference([(node, seed)])
        resources:
            **needs("inference"),
            gpu=GPU,
        params:
            stamp=PLAN.predictions_stamp("test"),
            wanted=unseen([PLAN.prediction(node, seed, "test")]),
            dataset=unseen(DATASET.model_dump()),
            split=unseen(SPLITS.test),
            shown=unseen(None),
            compute=unseen(COMPUTE.model_dump()),
        message:
            f"predictions of the test images: {node.name}, seed {seed}"
        script:
            "../scripts/inference.py"


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
    resources:
        **needs("score"),
    params:
        stamp=PLAN.code("submission"),
        reads=unseen(lambda w: PLAN.inference_stamp(GRAPH.node("inference", w.node), "test")),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.test),
    message:
        "archive to submit: {wildcards.node}, seed {wildcards.seed}"
    script:
        "../scripts/submission.py"
