# A segmentor trained on the pseudo masks, and its predictions.

SEGMENTATION_CODE = code(
    "clip",
    "datasets",
    "imageio",
    *(f"segmentation/{name}" for name in ("backbones", "data", "heads", "hooks", "losses")),
    *(f"segmentation/{name}" for name in ("predict", "schedule", "segmentor", "train", "weights")),
)
STAGE = RESULTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}"


def files_of_segmentor(wildcards):
    settings = table.resolve(config, "segmentation", wildcards.segmentation)
    return local_files(settings["segmentor"], settings["init"]) + files_of_model(wildcards)


rule train:
    # The work folder (checkpoints of an interrupted training) lies outside of the outputs, which
    # Snakemake deletes before a job starts.
    input:
        images=split_list("pseudo"),
        manifests=manifests,
        segmentor=files_of_segmentor,
        code=SEGMENTATION_CODE,
    output:
        checkpoint=STAGE / "checkpoint.pth",
        log=STAGE / "log.csv",
    params:
        entry=entry("segmentation"),
        dataset=DATASET,
        compute=COMPUTE,
    threads: COMPUTE["threads"]
    resources:
        gpu=GPU * COMPUTE["gpus"],
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/train.log",
    benchmark:
        COSTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/train.tsv"
    script:
        "../scripts/train.py"


rule predict:
    input:
        images=split_list("val"),
        checkpoint=STAGE / "checkpoint.pth",
        segmentor=files_of_segmentor,
        code=SEGMENTATION_CODE,
    output:
        STAGE / "predictions.csv",
    params:
        entry=entry("segmentation"),
        dataset=DATASET,
        split=SPLITS["val"],
        compute=COMPUTE,
    threads: COMPUTE["threads"]
    resources:
        gpu=GPU,
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict.log",
    benchmark:
        COSTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict.tsv"
    script:
        "../scripts/predict.py"


use rule predict as predict_test with:
    input:
        images=split_list("test"),
        checkpoint=STAGE / "checkpoint.pth",
        segmentor=files_of_segmentor,
        code=SEGMENTATION_CODE,
    output:
        STAGE / "test.csv",
    params:
        entry=entry("segmentation"),
        dataset=DATASET,
        split=SPLITS["test"],
        compute=COMPUTE,
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict_test.log",
    benchmark:
        COSTS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predict_test.tsv"


rule submission:
    input:
        STAGE / "test.csv",
    output:
        STAGE / "submission.tgz",
    params:
        dataset=DATASET,
        split=SPLITS["test"],
    log:
        LOGS / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/submission.log",
    script:
        "../scripts/submission.py"
