# Which sentence a class is put into: sharpness of the templates, text features.


rule image_features:
    # CLIP's features of the images that rank the templates; only `sharpest` asks for them.
    input:
        images=split_list("prompts"),
        model=files_of_model,
        code=code("clip", "prompts", "datasets"),
    output:
        RESULTS / "prompts/{model}/image_features.npz",
    params:
        model=lambda wildcards: config["models"][wildcards.model],
        dataset=DATASET,
        split=SPLITS["prompts"],
        compute=COMPUTE,
    threads: COMPUTE["threads"]
    resources:
        gpu=GPU,
    log:
        LOGS / "prompts/{model}/image_features.log",
    benchmark:
        COSTS / "prompts/{model}/image_features.tsv"
    script:
        "../scripts/image_features.py"


def ranking_features(wildcards):
    if table.resolve(config, "texts", wildcards.texts)["template"] != "sharpest":
        return []
    return RESULTS / "prompts" / wildcards.model / "image_features.npz"


rule texts:
    input:
        images=split_list("prompts"),
        features=ranking_features,
        model=files_of_model,
        vocabulary=DATASET["vocabulary"],
        code=code("clip", "prompts", "datasets"),
    output:
        features=RESULTS / "prompts/{model}/{texts}/text_features.npz",
        prompt=RESULTS / "prompts/{model}/{texts}/prompt.json",
        sharpness=RESULTS / "prompts/{model}/{texts}/sharpness.csv",
    params:
        entry=entry("texts"),
        model=lambda wildcards: config["models"][wildcards.model],
        dataset=DATASET,
        split=SPLITS["prompts"],
        compute=COMPUTE,
    threads: COMPUTE["threads"]
    log:
        LOGS / "prompts/{model}/{texts}.log",
    script:
        "../scripts/texts.py"
