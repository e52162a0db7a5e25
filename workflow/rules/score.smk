# Measurements: one JSON each, with the counts of every image, the sidecar and the provenance.


rule score_maps:
    # Initial or refined maps, at all background powers.
    input:
        fresh(lambda w: [PLAN.score(w.stage, node_scored(w))]),
        images=images_of(SPLITS.score),
        read=files(maps_scored),
        sidecars=sidecars(maps_scored),
    output:
        json=scored("{stage}", "{node}/score.json"),
        counts=scored("{stage}", "{node}/counts.parquet"),
        provenance=scored("{stage}", "{node}/provenance.json"),
        sidecar=scored("{stage}", "{node}/sidecar.json"),
    log:
        LOGS / "score/{stage}/{node}.log",
    benchmark:
        BENCHMARKS / "score/{stage}/{node}.tsv"
    params:
        stamp=lambda w: PLAN.score_stamp(w.stage, node_scored(w)),
        lineage=unseen(lambda w: node_scored(w).lineage()),
        reads=stamps(maps_scored),
        precision=unseen(lambda w: PLAN.precision(node_scored(w))),
        powers=unseen(lambda w: PLAN.powers(node_scored(w))),
        sweep=unseen(PLAN.config.evaluation.powers),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.score),
        device=unseen(COMPUTE.device),
    script:
        "../scripts/score_maps.py"


rule score_masks:
    input:
        fresh(lambda w: [PLAN.score("mask", GRAPH.node("masks", w.node))]),
        images=images_of(SPLITS.score),
        read=files(itself("masks")),
        sidecars=sidecars(itself("masks")),
    output:
        json=scored("mask", "{node}/score.json"),
        counts=scored("mask", "{node}/counts.parquet"),
        confidence=scored("mask", "{node}/confidence.parquet"),
        provenance=scored("mask", "{node}/provenance.json"),
        sidecar=scored("mask", "{node}/sidecar.json"),
    log:
        LOGS / "score/mask/{node}.log",
    benchmark:
        BENCHMARKS / "score/mask/{node}.tsv"
    params:
        stamp=lambda w: PLAN.score_stamp("mask", GRAPH.node("masks", w.node)),
        lineage=lineage_of("masks"),
        reads=stamps(itself("masks")),
        precision=unseen(lambda w: PLAN.precision(GRAPH.node("masks", w.node))),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.score),
        seed=unseen(None),
        stage=unseen("mask"),
        device=unseen(COMPUTE.device),
    script:
        "../scripts/score_labels.py"


rule score_predictions:
    input:
        fresh(lambda w: [PLAN.score("segmentation", GRAPH.node("inference", w.node), int(w.seed))]),
        images=images_of(SPLITS.val),
        read=files(predictions_of),
        sidecars=sidecars(predictions_of),
        shown=lambda w: predictions_of(w)[0].files[1],
    output:
        json=scored("segmentation", "{node}/seed{seed}/score.json"),
        counts=scored("segmentation", "{node}/seed{seed}/counts.parquet"),
        provenance=scored("segmentation", "{node}/seed{seed}/provenance.json"),
        sidecar=scored("segmentation", "{node}/seed{seed}/sidecar.json"),
    log:
        LOGS / "score/segmentation/{node}/seed{seed}.log",
    benchmark:
        BENCHMARKS / "score/segmentation/{node}/seed{seed}.tsv"
    params:
        stamp=lambda w: PLAN.score_stamp(
            "segmentation", GRAPH.node("inference", w.node), int(w.seed)
        ),
        lineage=lineage_of("inference"),
        reads=stamps(predictions_of),
        precision=unseen(lambda w: PLAN.precision(GRAPH.node("inference", w.node))),
        dataset=unseen(DATASET.model_dump()),
        split=unseen(SPLITS.val),
        seed=unseen(lambda w: int(w.seed)),
        stage=unseen("segmentation"),
        device=unseen(COMPUTE.device),
    script:
        "../scripts/score_labels.py"
