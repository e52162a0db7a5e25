# Which sentence a class is put into, where a ranking by sharpness chooses it. Texts with a fixed
# template need no job: the pass that makes the maps encodes them.


rule features:
    # CLIP's features of the images that rank the templates.
    input:
        fresh(lambda wildcards: [PLAN.features(GRAPH.node("features", wildcards.node))]),
        images=images_of(SPLITS.prompts),
    output:
        features=RESULTS / "features/{node}/image_features.npz",
        sidecar=RESULTS / "features/{node}/image_features.json",
    log:
        LOGS / "features/{node}.log",
    benchmark:
        BENCHMARKS / "features/{node}.tsv"
    threads: COMPUTE.threads
    resources:
        gpu=GPU,
    params:
        stamp=stamp_of("features"),
        model=settings_of("features"),
        lineage=lineage_of("features"),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.prompts),
        compute=unseen(COMPUTE.model_dump()),
    script:
        "../scripts/features.py"


rule texts:
    input:
        fresh(lambda wildcards: [PLAN.texts(GRAPH.node("texts", wildcards.node))]),
        images=images_of(SPLITS.prompts),
        features=lambda wildcards: features_of(wildcards).files[0],
        sidecar=lambda wildcards: features_of(wildcards).sidecar,
    output:
        features=RESULTS / "texts/{node}/text_features.npz",
        prompt=RESULTS / "texts/{node}/prompt.json",
        sharpness=RESULTS / "texts/{node}/sharpness.csv",
        sidecar=RESULTS / "texts/{node}/text_features.json",
    log:
        LOGS / "texts/{node}.log",
    benchmark:
        BENCHMARKS / "texts/{node}.tsv"
    threads: COMPUTE.threads
    params:
        stamp=stamp_of("texts"),
        entry=settings_of("texts"),
        lineage=lineage_of("texts"),
        reads=unseen(lambda wildcards: features_of(wildcards).stamp),
        model=unseen(lambda wildcards: GRAPH.node("texts", wildcards.node).parents[0].settings),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.prompts),
        compute=unseen(COMPUTE.model_dump()),
    script:
        "../scripts/texts.py"
