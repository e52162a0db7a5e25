"""One HTML page of a results folder: ladder, pictures, breakdowns, costs, and where it comes from.

The page is a single file that loads nothing. It may hold times, so it is not part of the promise
that the same commit gives the same bytes.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from clip_wsss.core.archives import Archives
from clip_wsss.core.csvs import read_csv
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_text
from clip_wsss.core.maps import read_skipped
from clip_wsss.data.bad_images import may_be_left_out
from clip_wsss.data.check import shortened
from clip_wsss.data.datasets import Dataset
from clip_wsss.report import panels
from clip_wsss.report import tables as report_tables
from clip_wsss.report.views import Results, details, pictures, rankings
from clip_wsss.runs.config import GROUPS
from clip_wsss.runs.graph import CHECK
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.stages import SCORED
from clip_wsss.runs.table import Run
from clip_wsss.tables.layout import TITLES
from clip_wsss.tables.published import read_published
from clip_wsss.tables.remarks import notes
from clip_wsss.tables.write import check_measurements

WIDE = 60  # letters; longer facts take a line of their own
QUOTES = 3  # published figures in the paragraph of a stage; the table has all
# How the page draws a picture: a mask keeps its pixels and can lie over the image.
PICTURE_KINDS = {
    **dict.fromkeys(("truth", "mask", "labels", "prediction"), "label"),
    "confidence": "map",
}


def write_report(plan: Plan, dataset: Dataset, out: Path, provenance: dict[str, Any]) -> None:
    """Write the report of a results folder.

    Reads the measurements, tables/*.csv, and for some images the files of every stage. A stage
    that a run does not have is said so in its place; without ground truth the pictures are all
    there is.

    Args:
        plan: of the results.
        dataset: the images and their ground truth.
        out: the HTML file.
        provenance: what made the results (commit, versions, device, times, …): texts, numbers,
            lists, or dicts of these.

    Raises:
        InputError: a measurement, a table, maps or masks are missing, cannot be read or do not
            fit the plan.
    """
    check_measurements(plan)
    environment = Environment(
        loader=PackageLoader("clip_wsss.report", "template"),
        autoescape=select_autoescape(["j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = _context(Results(plan, dataset), provenance)
    write_text(out, environment.get_template("template.html.j2").render(context))


def _context(results: Results, provenance: dict[str, Any]) -> dict[str, Any]:
    """Everything that the template names."""
    runs, tables = results.runs, _tables(results)
    start = _start(results, tables)
    shown = pictures(results)
    data: dict[str, Any] = {
        "start": start,
        "runs": [run.name for run in runs],
        "notes": {run.name: run.note for run in runs},
        "stages": [
            {"key": stage, "title": title, "kind": PICTURE_KINDS.get(stage, "photo")}
            for stage, title in panels.COLUMN_TITLES.items()
            if stage != "labels" or any("labels" in files for files in results.files.values())
        ],
        **shown,
    }
    published = results.config.evaluation.published
    quoted = None if published is None else read_published(published)
    context = {
        "dataset": results.dataset.name,
        "title": "From labels to masks",
        "demo": results.config.dataset.source == "demo",
        "runs": runs,
        "start": start,
        "start_index": data["runs"].index(start),
        "ladders": _ladders(tables),
        "panel_count": len(shown["panels"][start]),
        "stages": data["stages"],
        "published": _quotes(quoted),
        "published_table": None if quoted is None else report_tables.published_table(quoted),
        "heatmaps": _heatmaps(results),
        "details": details(results),
        "rankings": rankings(results),
        "cost": _cost(results),
        "skipped": _skipped(results),
        "warnings": _warnings(results),
        "remarks": _remarks(results),
        "provenance": _facts(
            {**provenance, "seeds": _seeds(results), "time_of_all_jobs": _time(results)}
        ),
        "root": f"{results.root.parent.name}/{results.root.name}",
        "files": [
            {
                "run": run.name,
                "paths": _paths(results, run),
                "weights": {n: m.origin for n, m in results.graph.models(run).items()},
            }
            for run in runs
        ],
        "data": Markup(json.dumps(data, ensure_ascii=False).replace("<", r"\u003c")),
        "css": Markup(_asset("report.css")),
        "js": Markup(_asset("report.js")),
    }
    context["sections"] = _sections(context)
    return context | _opening(results, tables, context["demo"])


def _asset(name: str) -> str:
    return files("clip_wsss.report").joinpath("template", name).read_text(encoding="utf-8")


def _tables(results: Results) -> dict[str, pd.DataFrame]:
    """Measured lines of every table of runs; none where nothing was scored."""
    made = {}
    for name in results.graph.tables if results.scored else ():
        frame = _read(results, name)
        made[name] = frame[frame["kind"] == "measured"]
    return made


def _read(results: Results, name: str) -> pd.DataFrame:
    path = results.root / "tables" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: missing; run snakemake to make it")
    return read_csv(path)


def _start(results: Results, tables: dict[str, pd.DataFrame]) -> str:
    """The run that the page shows first: of those with the most scored stages the best one."""
    best = {
        line["run"]: line["miou"]
        for frame in tables.values()
        for line in frame.dropna(subset="miou").to_dict("records")
    }
    stages = {run.name: len(results.files[run.name]) for run in results.runs}
    return max(stages, key=lambda name: (stages[name], best.get(name, 0.0)))


def _opening(results: Results, tables: dict[str, pd.DataFrame], demo: bool) -> dict[str, Any]:
    """The lead and the tiles at the top."""
    splits = results.config.dataset.splits
    shown = dict.fromkeys(filter(None, (splits.pseudo, splits.val)))
    counts = {split: len(results.dataset.ids(split)) for split in shown}
    images = " and ".join(f"{count:,} {split}" for split, count in counts.items())
    bounds = {run.name for run in results.runs if results.fully_supervised(run)}
    masks = [results.graph.settings[run.name].masks for run in results.runs]
    made = {one.source for one in masks if one is not None}
    words = {"ground-truth": "full supervision", "import": "masks made elsewhere"}
    left_out = " and ".join(said for source, said in words.items() if source in made)
    others = f", but for {left_out}" if left_out else ""
    several = len(results.runs) > 1
    lead = answer(tables) + (
        f"{f'{len(results.runs)} runs' if several else 'One run'} on the {images} images of "
        f"{'the demo' if demo else results.dataset.name}, {'each ' if several else ''}"
        f"taught by image-level labels alone{others}"
        f"{' and measured after every stage' if results.scored else ''}."
    )
    tiles = [
        {"label": "Runs", "value": len(results.runs), "detail": ", ".join(tables)},
        {"label": "Images", "value": f"{sum(counts.values()):,}", "detail": images},
    ]
    for label, stages in (
        ("Best pseudo labels, mIoU", SCORED[:-1]),
        ("Best segmentation, mIoU", ("segmentation",)),
    ):
        found = [
            (line[stage], line["run"], line[f"{stage}_low"], line[f"{stage}_high"])
            for frame in tables.values()
            for stage in stages
            for line in frame.dropna(subset=stage).to_dict("records")
            if line["run"] not in bounds
        ]
        if found:
            value, name, low, high = max(found, key=lambda one: one[0])
            detail = f"{name}, interval {low:.1f} to {high:.1f}"
            tiles.append({"label": label, "value": f"{value:.1f}", "detail": detail})
    return {"lead": lead, "tiles": tiles}


def answer(tables: dict[str, pd.DataFrame], most: int = 5) -> str:
    """What helped against its base, by how much, and what is within noise; empty without bases."""
    lines = [
        line
        for frame in tables.values()
        for line in frame.dropna(subset="difference").to_dict("records")
    ]
    sure = sorted(
        (line for line in lines if line["more_than_noise"] == "yes"),
        key=lambda line: -abs(line["difference"]),
    )
    said = {
        line["run"]: f"{line['run']} {report_tables.signed(line['difference'])}" for line in sure
    }
    groups = {
        "better than their base": [said[line["run"]] for line in sure if line["difference"] > 0],
        "worse": [said[line["run"]] for line in sure if line["difference"] < 0],
        "within noise": [line["run"] for line in lines if line["run"] not in said],
    }
    parts = [
        f"{words}: {', '.join(names[:most])}"
        + (f" and {len(names) - most} more" if len(names) > most else "")
        for words, names in groups.items()
        if names
    ]
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}. " if parts else ""


def _sections(context: dict[str, Any]) -> list[dict[str, str]]:
    """What the navigation leads to."""
    titles = {
        "ladder": "Ladder" if context["ladders"] else "Runs",
        "panels": "Pictures",
        "stages": "Stages",
        "classes": "Classes" if context["heatmaps"] else "",
        "closer": "Closer" if context["details"] else "",
        "prompts": "Prompts" if context["rankings"] else "",
        "cost": "Cost" if context["cost"] else "",
        "published": "Quoted" if context["published_table"] else "",
        "provenance": "Provenance",
    }
    return [{"id": key, "title": title} for key, title in titles.items() if title]


def _ladders(tables: dict[str, pd.DataFrame]) -> list[dict]:
    return [
        {
            "name": name,
            "chart": report_tables.ladder(frame),
            "table": report_tables.runs_table(frame, name),
        }
        for name, frame in tables.items()
    ]


def _heatmaps(results: Results) -> list[dict]:
    return report_tables.heatmaps(_read(results, "per_class")) if results.scored else []


def _quotes(published: pd.DataFrame | None) -> dict[str, list[dict]]:
    """The first published figures of each stage, for its paragraph."""
    quotes: dict[str, list[dict]] = {stage: [] for stage in SCORED}
    for row in [] if published is None else published.to_dict("records"):
        if len(quotes[row["stage"]]) < QUOTES:
            words = f"{row['method']} on {row['dataset']} {row['split']}"
            quotes[row["stage"]].append({"figure": f"{row['miou']:.1f}", "what": words})
    return quotes


def _cost(results: Results) -> dict | None:
    """The cost table, where the jobs were timed."""
    table = _costs(results)
    if table.empty:
        return None
    caption = "Jobs that ran side by side shared the machine, which is in their seconds."
    if len(devices := table["device"].unique()) == 1:
        caption, table = f"{devices[0]}. {caption}", table.drop(columns="device")
    return report_tables.plain_table(table, "cost", caption)


def _costs(results: Results) -> pd.DataFrame:
    path = results.root / "tables/cost.csv"
    return read_csv(path) if path.is_file() else pd.DataFrame()


def _time(results: Results) -> str | None:
    table = _costs(results)
    return None if table.empty else f"{table['seconds'].sum() / 60:.1f} minutes"


def _skipped(results: Results) -> list[str]:
    """Images that some stage left out."""
    found: set[str] = set()
    for stages in results.files.values():
        for names in stages.values():
            for name in names:
                found.update(results.info(name)["skipped"])
    for made in results.panel_files.values():
        if made.masks:
            found.update(Archives(made.masks).skipped)
        elif may_be_left_out(results.dataset):
            for shard in made.maps:
                found.update(read_skipped(shard))
    return sorted(found)


def _warnings(results: Results) -> list[str]:
    """What the check of the data found odd."""
    path = results.root / CHECK
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return shortened(report.get("warnings", []))


def _remarks(results: Results) -> list[str]:
    """What makes figures say less than they seem to."""
    if not results.scored:
        return []
    return notes(_read(results, "remarks"), [run.name for run in results.runs])


def _seeds(results: Results) -> str:
    seeds = sorted({seed for run in results.runs if run.segmentation for seed in run.seeds})
    trained = f"of the trainings {', '.join(map(str, seeds))}, " if seeds else ""
    return f"{trained}of the resampling {results.config.evaluation.seed}"


def _paths(results: Results, run: Run) -> list[tuple[str, str]]:
    """Where the files of a run lie, below the results folder."""
    path = results.graph.paths[run.name]
    paths = [(group, f"{path[group].folder}/") for group in GROUPS if group in path]
    for stage, names in results.files[run.name].items():
        paths += [(f"score, {TITLES[stage]}", name) for name in names]
    return paths


def _facts(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Flatten the provenance to words, long ones last; what is unknown is left out."""
    names = {"changed": "uncommitted changes", "config_sha256": "SHA-256 of the config"}

    def say(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {say(item)}" for key, item in value.items())
        if isinstance(value, list | tuple):
            return ", ".join(map(say, value))
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

    facts: list[dict[str, Any]] = [
        {"name": names.get(key, key).replace("_", " "), "value": say(value)}
        for key, value in provenance.items()
        if value is not None
    ]
    facts = [fact | {"wide": len(fact["value"]) > WIDE} for fact in facts]
    return sorted(facts, key=lambda fact: fact["wide"])
