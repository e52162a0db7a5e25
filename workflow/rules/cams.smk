# Initial CAMs and their affinity-refined maps: one forward pass an image gives both.


rule cams:
    input:
        images=split_list("pseudo"),
        texts=text_features,
        model=files_of_model,
        code=code("cam", "clip", "datasets", "shards"),
    output:
        RESULTS / "cams/{texts}/{cam}/{shard}.npz",
    log:
        LOGS / "cams/{texts}/{cam}/{shard}.log",
    benchmark:
        COSTS / "cams/{texts}/{cam}/{shard}.tsv"
    threads: COMPUTE["threads"]
    resources:
        gpu=GPU,
    params:
        entry=entry("cam"),
        model=lambda wildcards: config["models"][model_of(wildcards)],
        dataset=IMAGE_SETTINGS,
        split=SPLITS["pseudo"],
        compute=NUMERICS,
    script:
        "../scripts/cams.py"
