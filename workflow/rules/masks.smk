# Pseudo masks: full-resolution scores, a mask refinement or none, label and confidence PNGs.


rule masks:
    input:
        images=split_list("pseudo"),
        cams=RESULTS / "cams/{texts}/{cam}/{shard}.npz",
        code=code("masks", "refine", "datasets", "imageio"),
    output:
        RESULTS / "masks/{texts}/{cam}/{masks}/{shard}.csv",
    params:
        entry=entry("masks"),
        dataset=DATASET,
        workers=COMPUTE["workers"],
    threads: COMPUTE["workers"]
    log:
        LOGS / "masks/{texts}/{cam}/{masks}/{shard}.log",
    benchmark:
        COSTS / "masks/{texts}/{cam}/{masks}/{shard}.tsv"
    script:
        "../scripts/masks.py"
