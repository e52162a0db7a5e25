# Pseudo masks: full-resolution scores, a mask refinement or none; or the data set's own masks, or
# those of other code. Labels and confidences of a shard are one archive.


rule masks:
    input:
        fresh(shard_of("masks")),
        images=images_of(SPLITS.pseudo),
        maps=files(maps_of_masks),
        texts=files(texts_of_masks),
        sidecars=sidecars(read_by_masks),
    output:
        # Kept where their sidecar says that they would come out the same.
        masks=update(RESULTS / "masks/{node}/{shard}.zip"),
        sidecar=update(RESULTS / "masks/{node}/{shard}.json"),
    log:
        LOGS / "masks/{node}/{shard}.log",
    benchmark:
        BENCHMARKS / "masks/{node}/{shard}.tsv"
    threads: COMPUTE.workers
    resources:
        **needs("masks"),
        gpu=gpu_of_masks,
    params:
        stamp=stamp_of("masks"),
        entry=settings_of("masks"),
        lineage=lineage_of("masks"),
        seen=unseen(seen_by_masks),
        reads=stamps(read_by_masks),
        images=image_files(SPLITS.pseudo),
        dataset=unseen(DATASET.model_dump()),
        compute=unseen(COMPUTE.model_dump()),
        split=unseen(SPLITS.pseudo),
    message:
        "masks: {wildcards.node}, shard {wildcards.shard}"
    script:
        "../scripts/masks.py"
