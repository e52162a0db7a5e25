"""What every stage took, from the logs of the jobs and Snakemake's benchmark files.

A log says what its job made, so a job counts while something of it is in use, once, under the first
run that uses it: jobs of earlier settings do not, and what a new row added is a line of its own.
`untimed` are files of the runs that no timed job is known to have made, as after a `dvc pull`, or
where a job that ran again found nothing to do: what they took is in none of the sums.

`seconds` are those of all jobs summed, `elapsed_seconds` those in which at least one of them ran
(jobs run side by side), by the last times in their logs. `startup_seconds` are those of `seconds`
that no loop over images took: the processes' start, their imports, opening files. Seconds an image
are of the loops, which the logs have (`clip_wsss.core.progress`). `resumed` of the jobs went on
from what one that was stopped had done: its time is lost with it, and counted nowhere. `device` is
what the jobs ran on, by their logs. The last line, of the stage `all`, is all jobs together.

No two runs take the same time, so this is a table of its own beside those of figures.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clip_wsss.core.csvs import markdown_table, write_csv
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_text
from clip_wsss.core.progress import JobLog, read_log
from clip_wsss.core.shards import is_shard
from clip_wsss.runs.plan import Plan, Product
from clip_wsss.runs.stages import GROUP_OF, TRAINED
from clip_wsss.runs.table import Run

ALL = "all"  # the stage of the last line
Span = tuple[float, float]  # seconds since 1970
COLUMNS = (
    *("stage", "folder", "run", "jobs", "resumed", "untimed", "images"),
    *("seconds", "elapsed_seconds", "startup_seconds", "seconds_an_image"),
    *("peak_memory_mb", "device"),
)


@dataclass(frozen=True)
class Job:
    """A job that was timed.

    Attributes:
        folder: of its log, which all shards of a stage share; or the name of its log.
        log: what its log says.
        seconds: that it took.
        memory: its peak in MB; NaN of one that ended before Snakemake looked at it.
    """

    folder: str
    log: JobLog
    seconds: float
    memory: float

    @property
    def span(self) -> Span | None:
        """When it began and ended: its log's last line is one of its last acts."""
        end = self.log.ended
        return None if end is None else (end - self.seconds, end)


def write_costs(plan: Plan, out_dir: Path | None = None) -> None:
    """Write `cost.csv` and `cost.md`: a line for the jobs of a folder, of the untimed, and of all.

    Args:
        plan: of the results; Snakemake's benchmark files lie below `benchmarks/` in their folder,
            the logs below `logs/`.
        out_dir: where the table goes; None: `tables` in the results folder.

    Raises:
        InputError: a benchmark file is none.
    """
    splits, dataset = plan.config.dataset.splits.model_dump(), plan.unlabelled
    numbers: dict[str | None, int] = {
        key: len(dataset.ids(split)) for key, split in splits.items() if split is not None
    }
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    jobs: dict[tuple[str, str], list[Job]] = {}
    used: dict[Path, tuple[str, str, str | None]] = {}  # sidecar -> first run, stage, split
    for run in plan.graph.runs:
        for stage, split, product in _products(plan, run):
            used.setdefault(product.sidecar, (run.name, stage, split))
    makers = _makers(plan, used)
    for sidecar, (name, stage, split) in used.items():
        job = makers.get(sidecar)
        key = stage, job.folder if job else ""
        line = lines.setdefault(key, {"stage": stage, "folder": key[1], "untimed": 0})
        if job is None:
            line["untimed"] += 1
        elif job not in jobs.setdefault(key, []):
            line |= {"run": line.get("run", name), "images": numbers.get(split)}
            jobs[key].append(job)
    every = [job for own in jobs.values() for job in own]
    rows = [line | _sums(jobs.get(key, [])) for key, line in lines.items()] if every else []
    if every:
        whole = {"stage": ALL, "untimed": sum(line["untimed"] for line in rows)} | _sums(every)
        rows.append(whole | {"startup_seconds": None, "seconds_an_image": None})
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"images": "Int64"})
    out_dir = plan.root / "tables" if out_dir is None else Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_csv(table, out_dir / "cost.csv")
    cells = [COLUMNS, ["---"] * len(COLUMNS), *table.astype(object).fillna("").to_numpy()]
    write_text(out_dir / "cost.md", markdown_table(cells))


def _sums(jobs: Sequence[Job]) -> dict[str, Any]:
    """What some jobs took together."""
    found: dict[str, Any] = {"jobs": len(jobs), "resumed": sum(job.log.resumed for job in jobs)}
    if not jobs:
        return found
    seconds = sum(job.seconds for job in jobs)
    loops = [job.log.loops for job in jobs if job.log.loops is not None]
    if len(loops) == len(jobs):
        images, taken = (sum(column) for column in zip(*loops, strict=True))
        found["startup_seconds"] = round(max(seconds - taken, 0), 1)
        found["seconds_an_image"] = round(taken / images, 4)
    return found | {
        "seconds": round(seconds, 1),
        "elapsed_seconds": elapsed([job.span for job in jobs]),
        "peak_memory_mb": pd.Series([job.memory for job in jobs]).max(),
        "device": "; ".join(dict.fromkeys(one for job in jobs for one in job.log.devices)),
    }


def elapsed(spans: Sequence[Span | None]) -> float | None:
    """Seconds in which at least one of some jobs ran; None where one does not say when."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span or ()):
        if span is None:
            return None
        start, end = span
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return round(total, 1)


def _makers(plan: Plan, sidecars: Iterable[Path]) -> dict[Path, Job]:
    """The last job that made what a sidecar speaks of, for those whose job is known and timed.

    The results may have been moved since, so a sidecar is looked up by the end of its path.
    """
    wanted = {sidecar.relative_to(plan.root).parts: sidecar for sidecar in sidecars}
    lengths, logs = sorted({len(parts) for parts in wanted}), plan.root / "logs"
    found: dict[Path, tuple[float, Path, JobLog]] = {}
    for path in sorted(logs.rglob("*.log")):
        log = read_log(path)
        ended = -math.inf if log.ended is None else log.ended
        tails = (wanted.get(made.parts[-length:]) for made in log.made for length in lengths)
        for sidecar in filter(None, tails):
            if sidecar not in found or found[sidecar][0] <= ended:
                found[sidecar] = ended, path, log
    jobs = {path: _job(plan, path, log) for _, path, log in found.values()}
    return {sidecar: job for sidecar, (_, path, _) in found.items() if (job := jobs[path])}


def _job(plan: Plan, path: Path, log: JobLog) -> Job | None:
    """The job of a log; None where it was not timed."""
    own = path.relative_to(plan.root / "logs").with_suffix("")
    benchmark = plan.root / "benchmarks" / own.with_name(f"{own.name}.tsv")
    if not benchmark.is_file():
        return None
    folder = own.parent if is_shard(own.name) else own
    return Job(folder.as_posix(), log, *_read(benchmark))


def _products(plan: Plan, run: Run) -> Iterator[tuple[str, str | None, Product]]:
    """Yield stage, split of its images and files of all that a run is made of."""
    graph, path = plan.graph, plan.graph.paths[run.name]
    if plan.tags is not None:
        for made in plan.tags.inputs["scores"]:
            if isinstance(made, Product):
                yield "tags", "pseudo", made
        yield "tags", "pseudo", plan.tags
        if plan.tag_score is not None:
            yield "score", "score", plan.tag_score
    if (texts := path.get("texts")) in plan.ranking.nodes:
        for node in (*texts.parents, texts):
            for made in plan.products(node):
                yield "texts", "prompts", made
    for stage, group in (("maps", "cam"), ("maps", "affinity"), ("masks", "masks")):
        for made in plan.products(path[group]) if group in path else []:
            yield stage, "pseudo", made
    if (training := path.get("segmentation")) is not None:
        for seed in run.seeds:
            yield "segmentation", None, plan.training(training, seed)
    scored = graph.scores(run)
    if (inference := path.get("inference")) is not None:
        for seed in run.seeds:
            if plan.config.dataset.splits.val is not None:
                yield "inference", "val", plan.predictions(inference, seed, "val")
            if "labels" in scored:
                yield "inference", "score", plan.predictions(inference, seed, "labels")
    for stage in scored:
        split = "val" if stage == "segmentation" else "score"
        node = path[GROUP_OF.get(stage, "inference")]
        for one in run.seeds if stage in TRAINED else (None,):
            yield "score", split, plan.score(stage, node, one)


def _read(path: Path) -> tuple[float, float]:
    """Read a benchmark file; short jobs end before their memory is looked at, which is NaN.

    Returns:
        Seconds, and MB.

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
    return float(table["s"].sum()), float(table["max_rss"].max())
