# Pseudo masks: full-resolution scores, a mask refinement or none, label and confidence PNGs.


rule masks:
    input:
        images=split_list("pseudo"),
        cams=RESULTS / "cams/{texts}/{cam}/{shard}.npz",
        code=code("masks", "datasets"),
    output:
        RESULTS / "masks/{texts}/{cam}/{masks}/{shard}.csv",
    log:
        LOGS / "masks/{texts}/{cam}/{masks}/{shard}.log",
    benchmark:
        COSTS / "masks/{texts}/{cam}/{masks}/{shard}.tsv"
    threads: COMPUTE["workers"]
    params:
        entry=entry("masks"),
        dataset=IMAGE_SETTINGS,
    script:
        "../scripts/masks.py"
