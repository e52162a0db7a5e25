"""What every stage took, from Snakemake's benchmark files and the logs of the jobs.

`seconds` are those of all jobs summed, `elapsed_seconds` those in which at least one of them ran
(jobs run side by side), by the last times in their logs. `startup_seconds` are those of `seconds`
that no loop over images took: the processes' start, their imports, opening files. Seconds an image
are of the loops, which the logs have (`clip_wsss.core.progress`). `resumed` of the jobs went on
from what one that was stopped had done: its time is lost with it, and counted nowhere. `device` is
what the jobs ran on, by their logs. The last line, of the stage `all`, is all jobs together.

No two runs take the same time, so this is a table of its own beside those of figures.
"""

import glob
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from clip_wsss.core.csvs import markdown_table, write_csv
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_text
from clip_wsss.core.progress import devices_of, ended, in_loops, resumed
from clip_wsss.core.shards import shard_pattern
from clip_wsss.data.datasets import open_dataset
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.table import Run

ALL = "all"  # the stage of the last line
Span = tuple[float, float]  # seconds since 1970
COLUMNS = (
    *("stage", "folder", "run", "jobs", "resumed", "images", "seconds", "elapsed_seconds"),
    *("startup_seconds", "seconds_an_image", "peak_memory_mb", "device"),
)


def write_costs(plan: Plan, out_dir: Path | None = None) -> None:
    """Write `cost.csv` and `cost.md`: a line a folder of a stage, of maps a line a pass, and all.

    Args:
        plan: of the results; Snakemake's benchmark files lie below `benchmarks/` in their folder.
            What several runs share is listed under the first of them.
        out_dir: where the table goes; None: `tables` in the results folder.
    """
    config = plan.config
    dataset, splits = open_dataset(config.dataset.model_dump()), config.dataset.splits.model_dump()
    numbers: dict[str | None, int] = {
        key: len(dataset.ids(split)) for key, split in splits.items() if split is not None
    }
    benchmarks = plan.root / "benchmarks"
    lines, seen = [], set()
    all_spans: list[Span | None] = []
    all_devices: list[str] = []
    for run in plan.graph.runs:
        for stage, split, folder, pattern in _places(plan, run):
            files = sorted(benchmarks.glob(f"{glob.escape(folder)}{pattern}"))
            if (stage, folder) in seen or not files:
                continue  # without a file it was made before, or elsewhere
            seen.add((stage, folder))
            jobs = pd.concat([_read(file) for file in files])
            images, seconds = numbers.get(split), jobs["s"].sum()
            logs = [
                plan.root / "logs" / file.relative_to(benchmarks).with_suffix(".log")
                for file in files
            ]
            loops = in_loops(logs)
            spans = [_span(log, job) for log, job in zip(logs, jobs["s"], strict=True)]
            all_spans += spans
            all_devices += (devices := devices_of(logs))
            lines.append(
                {
                    "stage": stage,
                    "folder": folder,
                    "run": run.name,
                    "jobs": len(jobs),
                    "resumed": sum(map(resumed, logs)),
                    "images": images,
                    "seconds": round(seconds, 1),
                    "elapsed_seconds": elapsed(spans),
                    "startup_seconds": round(max(seconds - loops[1], 0), 1) if loops else None,
                    "seconds_an_image": round(loops[1] / loops[0], 4) if loops else None,
                    "peak_memory_mb": jobs["max_rss"].max(),
                    "device": "; ".join(devices),
                }
            )
    if lines:
        whole: dict = {"stage": ALL, "device": "; ".join(dict.fromkeys(all_devices))}
        whole |= {key: sum(line[key] for line in lines) for key in ("jobs", "resumed")}
        whole["seconds"] = round(sum(line["seconds"] for line in lines), 1)
        whole["elapsed_seconds"] = elapsed(all_spans)
        whole["peak_memory_mb"] = pd.Series([line["peak_memory_mb"] for line in lines]).max()
        lines.append(whole)
    table = pd.DataFrame(lines, columns=list(COLUMNS)).astype({"images": "Int64"})
    out_dir = plan.root / "tables" if out_dir is None else Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_csv(table, out_dir / "cost.csv")
    rows = [COLUMNS, ["---"] * len(COLUMNS), *table.astype(object).fillna("").to_numpy()]
    write_text(out_dir / "cost.md", markdown_table(rows))


def elapsed(spans: Sequence[Span | None]) -> float | None:
    """Seconds in which at least one of some jobs ran; None where one does not say when."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span or (0, 0)):
        if span is None:
            return None
        start, end = span
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return round(total, 1)


def _span(log: Path, seconds: float) -> Span | None:
    """When a job began and ended: its log's last line is one of its last acts."""
    end = ended(log)
    return None if end is None or math.isnan(seconds) else (end - seconds, end)


def _places(plan: Plan, run: Run) -> Iterator[tuple[str, str | None, str, str]]:
    """Yield stage, split of its images, folder and file pattern of the benchmarks of a run.

    What one job does for several runs (ranked texts, the passes of the maps, inference, scores) is
    one line; what was added later ran as another job.
    """
    graph, path = plan.graph, plan.graph.paths[run.name]
    shards = f"/{shard_pattern(plan.config.compute.shards)}.tsv"
    if plan.tags is not None:
        yield "tags", "pseudo", "tags", shards
    if path.get("texts") in plan.ranking.nodes:
        yield "texts", "prompts", "texts", "/*.tsv"
    passes = [name for name, one in graph.passes.items() if path.get("cam") in one.nodes]
    for folder in sorted((plan.root / "benchmarks/maps").glob("*")):
        if folder.name.partition("-")[0] in ["new", *passes] and passes:
            yield "maps", "pseudo", f"maps/{folder.name}", shards
    if "masks" in path:
        yield "masks", "pseudo", path["masks"].folder, shards
    if "segmentation" in path:
        for seed in run.seeds:
            yield "segmentation", None, graph.training(path["segmentation"], seed), ".tsv"
    if "inference" in path:
        yield "inference", "val", "inference", "-*.tsv"
    scores = {"segmentation": "score_predictions", "labels": "score_labels"}
    for stage in graph.scores(run):
        if stage == "labels":
            yield "inference", "score", "labels", "-*.tsv"
        yield (
            "score",
            "val" if stage == "segmentation" else "score",
            scores.get(stage, "score"),
            ".tsv",
        )


def _read(path: Path) -> pd.DataFrame:
    """Read a benchmark file; short jobs end before their memory is looked at, which is NaN.

    Raises:
        InputError: it is none, as after a power cut.
    """
    try:
        table = pd.read_csv(path, sep="\t")[["s", "max_rss"]]
        table = table.apply(pd.to_numeric, errors="coerce")
        if table.empty or table["s"].isna().any():
            raise ValueError
    except (ValueError, KeyError):
        raise InputError(
            f"{path}: no benchmark of Snakemake; remove it, and the cost of its job is unknown"
        ) from None
    return table
