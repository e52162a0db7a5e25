# Measurements: one JSON each, with the counts of every image, the sidecar and the provenance.
#
# One job measures all maps and masks, one all predictions, and one the labels of finished trainings,
# since the ground truth is then read once. It leaves measurements as they are that would come out the same.

for name, split, stages, words in [
    ("score", SPLITS.score, (*MAP_STAGES, "mask"), "maps and masks"),
    ("score_predictions", SPLITS.val, ("segmentation",), "predictions"),
    ("score_labels", SPLITS.score, ("labels",), "final labels"),
]:
    measured = [one for one in PLAN.measured if one[0] in stages]
    masks = [one for one in measured if one[0] == "mask"]
    if measured:
        free = unused(name)

        rule:
            name:
                name
            input:
                fresh(scores_of(measured)),
                images=images_of(split),
                read=files(read_by(measured)),
                sidecars=sidecars(read_by(measured)),
                # The sidecar of predictions speaks of those of the shown images too.
                shown=lambda w, m=measured: [f for p in read_by(m)(w) for f in p.files[1:]],
            output:
                json=scored(measured, "score.json"),
                counts=scored(measured, "counts.parquet"),
                confidence=scored(masks, "confidence.parquet"),
                provenance=scored(measured, "provenance.json"),
                sidecar=scored(measured, "sidecar.json"),
            log:
                LOGS / f"{free}.log",
            benchmark:
                BENCHMARKS / f"{free}.tsv"
            threads: COMPUTE.workers
            resources:
                **needs("score"),
            params:
                stamp={"code": PLAN.code("score"), "split": split, "truth": GRAPH.truth(split)},
                measured=unseen([PLAN.measurement(*one) for one in measured]),
                dataset=unseen(DATASET.model_dump()),
                split=unseen(split),
            message:
                f"scores: {words} ({len(measured)})"
            script:
                "../scripts/score.py"
