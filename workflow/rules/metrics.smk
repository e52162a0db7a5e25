# Measurements: one JSON each, with the per-image counts and the provenance beside it.


def settings_of(*groups):
    """A rule parameter: the settings of every group up to a stage, for its provenance."""

    def settings(wildcards):
        found = {group: table.resolve(config, group, wildcards[group]) for group in groups}
        return {"model": config["models"][found["cam"]["model"]], **found}

    return settings


rule evaluate_maps:
    # The initial CAMs or the refined maps, at a fixed background power and over the oracle sweep.
    input:
        images=split_list("score"),
        cams=shards_of_cams,
        code=code("metrics", "datasets"),
    output:
        json=RESULTS / "metrics/{texts}/{cam}/{stage},power={power}.json",
        counts=RESULTS / "metrics/{texts}/{cam}/{stage},power={power}.parquet",
        provenance=RESULTS / "metrics/{texts}/{cam}/{stage},power={power}.provenance.json",
    params:
        dataset=DATASET,
        split=SPLITS["score"],
        powers=config["evaluation"]["powers"],
        settings=settings_of("texts", "cam"),
    log:
        LOGS / "metrics/{texts}/{cam}/{stage},power={power}.log",
    script:
        "../scripts/evaluate_maps.py"


rule evaluate_masks:
    input:
        images=split_list("score"),
        manifests=manifests,
        code=code("metrics", "datasets", "imageio"),
    output:
        json=RESULTS / "metrics/{texts}/{cam}/{masks}/mask.json",
        counts=RESULTS / "metrics/{texts}/{cam}/{masks}/mask.parquet",
        confidence=RESULTS / "metrics/{texts}/{cam}/{masks}/confidence.parquet",
        provenance=RESULTS / "metrics/{texts}/{cam}/{masks}/mask.provenance.json",
    params:
        dataset=DATASET,
        split=SPLITS["score"],
        settings=settings_of("texts", "cam", "masks"),
    log:
        LOGS / "metrics/{texts}/{cam}/{masks}/mask.log",
    script:
        "../scripts/evaluate_masks.py"


rule evaluate_segmentation:
    input:
        images=split_list("val"),
        predictions=RESULTS
        / "segmentation/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/predictions.csv",
        code=code("metrics", "datasets", "imageio"),
    output:
        json=RESULTS / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.json",
        counts=RESULTS
        / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.parquet",
        provenance=RESULTS
        / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.provenance.json",
    params:
        dataset=DATASET,
        split=SPLITS["val"],
        settings=settings_of("texts", "cam", "masks", "segmentation"),
    log:
        LOGS / "metrics/{texts}/{cam}/{masks}/{segmentation}/seed{seed}/segmentation.log",
    script:
        "../scripts/evaluate_segmentation.py"
