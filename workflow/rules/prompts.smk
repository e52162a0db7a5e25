# Which sentence a class is put into: sharpness of the templates, text features.


rule image_features:
    # CLIP's features of the images that rank the templates; only `sharpest` asks for them.
    input:
        images=split_list("prompts"),
        model=files_of_model,
        code=code("prompts", "clip", "datasets"),
    output:
        RESULTS / "prompts/{model}/image_features.npz",
    log:
        LOGS / "prompts/{model}/image_features.log",
    benchmark:
        COSTS / "prompts/{model}/image_features.tsv"
    threads: COMPUTE["threads"]
    resources:
        gpu=GPU,
    params:
        model=lambda wildcards: config["models"][wildcards.model],
        dataset=IMAGE_SETTINGS,
        split=SPLITS["prompts"],
        compute=NUMERICS,
    script:
        "../scripts/image_features.py"


rule texts:
    input:
        images=split_list("prompts"),
        features=ranking_features,
        templates=template_list,
        model=files_of_model,
        vocabulary=DATASET["vocabulary"],
        code=code("prompts", "clip", "datasets"),
    output:
        features=RESULTS / "prompts/{model}/{texts}/text_features.npz",
        prompt=RESULTS / "prompts/{model}/{texts}/prompt.json",
        sharpness=RESULTS / "prompts/{model}/{texts}/sharpness.csv",
    log:
        LOGS / "prompts/{model}/{texts}.log",
    threads: COMPUTE["threads"]
    params:
        entry=entry("texts"),
        model=lambda wildcards: config["models"][wildcards.model],
        dataset=IMAGE_SETTINGS,
        split=SPLITS["prompts"],
        compute=NUMERICS,
    script:
        "../scripts/texts.py"
