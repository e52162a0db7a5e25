# A segmentor trained on the pseudo masks, and its predictions.

STAGE = RESULTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}"


rule train:
    # The work folder (checkpoints of an interrupted training) lies outside of the outputs, which
    # Snakemake deletes before a job starts.
    input:
        images=split_list("pseudo"),
        manifests=manifests,
        segmentor=files_of_segmentor,
        code=code("segmentation/train"),
    output:
        checkpoint=STAGE / "checkpoint.pth",
        log=STAGE / "log.csv",
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/train.log",
    benchmark:
        COSTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/train.tsv"
    threads: COMPUTE["threads"]
    resources:
        gpu=GPU * COMPUTE["gpus"],
    params:
        entry=entry("segmentation"),
        dataset=IMAGE_SETTINGS,
        compute={**NUMERICS, "gpus": COMPUTE["gpus"]},
    script:
        "../scripts/train.py"


rule predict:
    input:
        images=split_list("val"),
        checkpoint=STAGE / "checkpoint.pth",
        segmentor=files_of_segmentor,
        code=code("segmentation/predict", "choice"),
    output:
        STAGE / "predictions.csv",
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict.log",
    benchmark:
        COSTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict.tsv"
    threads: threads_of_prediction
    resources:
        gpu=GPU,
    params:
        entry=entry("segmentation"),
        dataset=IMAGE_SETTINGS,
        split=SPLITS["val"],
        shown={
            "split": SPLITS["score"] or SPLITS["pseudo"],
            "count": config["evaluation"]["panels"],
        },
        compute=NUMERICS,
    script:
        "../scripts/predict.py"


use rule predict as predict_test with:
    input:
        images=split_list("test"),
        checkpoint=STAGE / "checkpoint.pth",
        segmentor=files_of_segmentor,
        code=code("segmentation/predict", "choice"),
    output:
        STAGE / "test.csv",
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict_test.log",
    benchmark:
        COSTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict_test.tsv"
    params:
        entry=entry("segmentation"),
        dataset=IMAGE_SETTINGS,
        split=SPLITS["test"],
        compute=NUMERICS,


rule submission:
    input:
        STAGE / "test.csv",
    output:
        STAGE / "submission.tgz",
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/submission.log",
    params:
        dataset=IMAGE_SETTINGS,
        split=SPLITS["test"],
    script:
        "../scripts/submission.py"
