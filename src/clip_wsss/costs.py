"""What every stage took: seconds an image and peak memory, from Snakemake's benchmark files.

No two runs take the same time, so this is a table of its own beside those of figures.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from clip_wsss.datasets import open_dataset
from clip_wsss.provenance import device_name
from clip_wsss.runs import Run, resolve
from clip_wsss.shards import shard_pattern

COLUMNS = ("stage", "cells", "run", "jobs", "images", "seconds", "seconds_an_image")
COLUMNS = (*COLUMNS, "peak_memory_mb", "device")


def write_costs(runs: list[Run], config: dict, root: Path, out_dir: Path) -> None:
    """Write `cost.csv` and `cost.md`: one line a stage and the cells that it depends on.

    Args:
        runs: the rows of the runs tables; shared stages stand under the first run that has them.
        config: the whole config.
        root: the results folder; Snakemake's benchmark files lie below `costs/`.
        out_dir: where the table goes.
    """
    dataset, splits = open_dataset(config["dataset"]), config["dataset"]["splits"]
    numbers = {key: len(dataset.ids(split)) for key, split in splits.items() if split is not None}
    device = device_name(config["compute"]["device"])
    lines, seen = [], set()
    for run in runs:
        for stage, split, folder, pattern in _places(run, config):
            files = sorted(Path(root, "costs", folder).glob(pattern))
            if (stage, folder) in seen or not files:
                continue  # a stage that a run does not have leaves no benchmark
            seen.add((stage, folder))
            jobs = pd.concat([_read(file) for file in files])
            images, seconds = numbers.get(split), jobs["s"].sum()
            lines.append(
                {
                    "stage": stage,
                    "cells": folder.split("/", 1)[1],
                    "run": run.name,
                    "jobs": len(jobs),
                    "images": images,
                    "seconds": round(seconds, 1),
                    "seconds_an_image": round(seconds / images, 4) if images else None,
                    "peak_memory_mb": jobs["max_rss"].max(),
                    "device": device,
                }
            )
    table = pd.DataFrame(lines, columns=list(COLUMNS)).astype({"images": "Int64"})
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    table.to_csv(out_dir / "cost.csv", index=False, lineterminator="\n")
    rows = [COLUMNS, ["---"] * len(COLUMNS), *table.astype(object).fillna("").to_numpy()]
    text = "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
    (out_dir / "cost.md").write_text(text, encoding="utf-8")


def _places(run: Run, config: dict) -> Iterator[tuple[str, str | None, str, str]]:
    """Yield stage, split of its images, folder and file pattern of the benchmarks of a run."""
    model = resolve(config, "cam", run.cam)["model"]
    maps = f"{run.texts}/{run.cam}"
    shards = f"{shard_pattern(config['compute']['shards'])}.tsv"
    yield "prompts", "prompts", f"prompts/{model}", "image_features.tsv"
    yield "cams", "pseudo", f"cams/{maps}", shards
    yield "masks", "pseudo", f"masks/{maps}/{run.masks}", shards
    if run.segmentation is not None:
        for seed in run.seeds:
            folder = f"segmentation/{maps}/{run.masks}/{run.segmentation}/seed{seed}"
            yield "training", None, folder, "train.tsv"
            yield "prediction", "val", folder, "predict.tsv"


def _read(path: Path) -> pd.DataFrame:
    """Read a benchmark file; short jobs end before their memory is looked at, which is NaN."""
    table = pd.read_csv(path, sep="\t")
    return table[["s", "max_rss"]].apply(pd.to_numeric, errors="coerce")
