# How the data come about: rendered, downloaded, or the user's own files, which need no rule.
# The lists of ids stand for a whole data set: they are written last, and thousands of images are
# no outputs. No rule here depends on the code of `acquire`: a changed comment there must not
# start 20 GB again.

SOURCE_OF_DATA = DATASET.source
LISTS = ROOT / "ImageSets/Segmentation"
SOURCES = PLAN.config.sources.model_dump() if PLAN.config.sources else {}
ARCHIVES = {
    "voc12": ["voc2012", "sbd"],
    "coco14": ["coco2014-annotations", "coco2014-train", "coco2014-val"],
}


if SOURCE_OF_DATA == "demo":

    rule demo_data:
        input:
            forced(lambda wildcards: [PLAN.data]),
        output:
            train=LISTS / "train.txt",
            val=LISTS / "val.txt",
            notice=ROOT / "LICENSE.txt",
            folders=[directory(folder) for folder in PLAN.demo_folders],
            sidecar=PLAN.data.sidecar,
        log:
            LOGS / "data.log",
        benchmark:
            BENCHMARKS / "data.tsv"
        resources:
            **needs("data"),
        params:
            stamp=PLAN.data.stamp,
            settings=unseen(PLAN.config.demo.model_dump()),
        message:
            "the demo's images"
        script:
            "../scripts/demo_data.py"


if SOURCE_OF_DATA in ARCHIVES:

    rule download:
        output:
            ROOT / "archives/{source}.json",
        log:
            LOGS / "data-download_{source}.log",
        benchmark:
            BENCHMARKS / "data-download_{source}.tsv"
        # The archive lies beside the receipt and outside of the outputs, which Snakemake deletes
        # before a job starts: so an interrupted download continues.
        localrule: True
        resources:
            **needs("data"),
        params:
            sources=SOURCES,
        message:
            "download of {wildcards.source}"
        script:
            "../scripts/download.py"


if SOURCE_OF_DATA == "voc12":

    rule voc12_data:
        input:
            **receipts("voc12"),
        output:
            train=LISTS / "train.txt",
            train_aug=LISTS / "train_aug.txt",
            val=LISTS / "val.txt",
        log:
            LOGS / "data-voc12.log",
        benchmark:
            BENCHMARKS / "data-voc12.tsv"
        resources:
            **needs("data"),
        params:
            root=lambda wildcards, output: Path(output.train).parents[2],
            sources=SOURCES,
        message:
            "VOC 2012 from its archives"
        script:
            "../scripts/voc12_data.py"

    rule voc12_test:
        # Apart from the rest, so that naming the test images later makes nothing else again.
        input:
            **{"voc2012-test": ROOT / "archives/voc2012-test.json"},
        output:
            test=LISTS / "test.txt",
        log:
            LOGS / "data-voc12_test.log",
        resources:
            **needs("data"),
        params:
            root=lambda wildcards, output: Path(output.test).parents[2],
            sources=SOURCES,
        message:
            "VOC 2012's test images"
        script:
            "../scripts/voc12_test.py"


if SOURCE_OF_DATA == "coco14":

    rule coco14_data:
        input:
            **receipts("coco14"),
        output:
            train=LISTS / "train.txt",
            val=LISTS / "val.txt",
            labels=ROOT / "labels.csv" if PLAN.tags else DATASET.labels,
        log:
            LOGS / "data-coco14.log",
        benchmark:
            BENCHMARKS / "data-coco14.tsv"
        threads: COMPUTE.workers
        resources:
            **needs("data"),
        params:
            root=lambda wildcards, output: Path(output.train).parents[2],
            sources=SOURCES,
            classes=list(GRAPH.vocabulary.classes),
            vocabulary=unseen(DATASET.vocabulary),
            workers=unseen(COMPUTE.workers),
        message:
            "COCO 2014 from its archives"
        script:
            "../scripts/coco14_data.py"


rule check:
    # One look at all lists, labels, image headers, masks and towers, before anything is computed.
    input:
        images=list(dict.fromkeys(path for split in PLAN.uses for path in PLAN.lists_of(split))),
    output:
        CHECKED,
    log:
        LOGS / "data-check.log",
    benchmark:
        BENCHMARKS / "data-check.tsv"
    threads: COMPUTE.workers
    resources:
        **needs("check"),
    params:
        # Only where this job is planned: it looks at every file of the user's own data.
        stamp=lambda wildcards: PLAN.check_stamp,
        uses=unseen(PLAN.uses),
        dataset=unseen(PLAN.config.dataset.model_dump()),
        models=unseen(PLAN.models),
        attention=unseen(PLAN.attention),
        entries=unseen(PLAN.entries),
        prompts=unseen(PLAN.prompts),
    message:
        "check of data, towers and trainings"
    script:
        "../scripts/check.py"
