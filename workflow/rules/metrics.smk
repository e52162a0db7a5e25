# Measurements: one JSON each, with the per-image counts and the provenance beside it.


rule evaluate_maps:
    # The initial CAMs or the refined maps, at a fixed background power and over the oracle sweep.
    input:
        images=split_list("score"),
        cams=shards_of_cams,
        code=code("metrics"),
    output:
        json=RESULTS / "metrics/{texts}/{cam}/{stage},power={power}.json",
        counts=RESULTS / "metrics/{texts}/{cam}/{stage},power={power}.parquet",
        provenance=RESULTS / "metrics/{texts}/{cam}/{stage},power={power}.provenance.json",
    log:
        LOGS / "metrics/{texts}/{cam}/{stage},power={power}.log",
    params:
        dataset=DATASET,
        split=SPLITS["score"],
        meta=meta("score"),
        powers=config["evaluation"]["powers"],
        device=COMPUTE["device"],
        settings=settings_of("texts", "cam"),
    script:
        "../scripts/evaluate_maps.py"


rule evaluate_masks:
    input:
        images=split_list("score"),
        manifests=manifests,
        code=code("metrics"),
    output:
        json=RESULTS / "metrics/{texts}/{cam}/{masks}/mask.json",
        counts=RESULTS / "metrics/{texts}/{cam}/{masks}/mask.parquet",
        confidence=RESULTS / "metrics/{texts}/{cam}/{masks}/confidence.parquet",
        provenance=RESULTS / "metrics/{texts}/{cam}/{masks}/mask.provenance.json",
    log:
        LOGS / "metrics/{texts}/{cam}/{masks}/mask.log",
    params:
        dataset=DATASET,
        split=SPLITS["score"],
        meta=meta("score"),
        device=COMPUTE["device"],
        settings=settings_of("texts", "cam", "masks"),
    script:
        "../scripts/evaluate_masks.py"


rule evaluate_segmentation:
    input:
        images=split_list("val"),
        predictions=RESULTS
        / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predictions.csv",
        code=code("metrics"),
    output:
        json=RESULTS / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.json",
        counts=RESULTS
        / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.parquet",
        provenance=RESULTS
        / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.provenance.json",
    log:
        LOGS / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.log",
    params:
        dataset=DATASET,
        split=SPLITS["val"],
        meta=meta("val"),
        device=COMPUTE["device"],
        settings=settings_of("texts", "cam", "masks", "segmentation"),
    script:
        "../scripts/evaluate_segmentation.py"
