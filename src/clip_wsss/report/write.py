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
from clip_wsss.core.csvs import csv_text, read_csv
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_text
from clip_wsss.core.maps import read_skipped
from clip_wsss.data.bad_images import may_be_left_out
from clip_wsss.data.check import shortened
from clip_wsss.data.datasets import Dataset
from clip_wsss.report import panels
from clip_wsss.report import tables as report_tables
from clip_wsss.report.classes import heatmaps
from clip_wsss.report.gallery import pictures
from clip_wsss.report.ladder import ladder
from clip_wsss.report.opening import opening
from clip_wsss.report.relations import across, pairs
from clip_wsss.report.results import Results
from clip_wsss.report.views import details, rankings
from clip_wsss.runs.config import GROUPS
from clip_wsss.runs.graph import CHECK
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.stages import MAP_STAGES, SCORED
from clip_wsss.runs.table import Run
from clip_wsss.tables.costs import ALL
from clip_wsss.tables.layout import TITLES
from clip_wsss.tables.published import read_published
from clip_wsss.tables.remarks import notes
from clip_wsss.tables.write import check_measurements

WIDE = 60  # letters; longer facts take a line of their own
QUOTES = 3  # published figures in the paragraph of a stage; the table has all
# How the page draws a picture: a mask keeps its pixels and can lie over the image.
PICTURE_KINDS = {
    **dict.fromkeys(("truth", "mask", "labels", "prediction"), "label"),
    "dropped": "over",
    **dict.fromkeys(MAP_STAGES, "cam"),
}
SCRIPTS = ("page.js", "gallery.js", "tables.js", "export.js")  # one after another
STYLES = ("report.css", "print.css")
PAPERS = {  # of the stages, read beside the docs
    "CLIP-ES": "https://arxiv.org/abs/2212.09506",
    "CLIP": "https://arxiv.org/abs/2103.00020",
    "GradCAM": "https://arxiv.org/abs/1610.02391",
    "dense CRF": "https://arxiv.org/abs/1210.5644",
    "WeCLIP": "https://arxiv.org/abs/2406.11189",
}
DOCS = "../../docs"  # from a results folder of a clone


def write_report(plan: Plan, dataset: Dataset, out: Path, provenance: dict[str, Any]) -> None:
    """Write the report of a results folder.

    Reads the measurements, tables/*.csv, and for some images the files of every stage. A stage
    that a run does not have is said so in its place; without ground truth the pictures are all
    there is.

    Args:
        plan: of the results.
        dataset: the images and their ground truth.
        out: the HTML file.
        provenance: what made the results (commit, versions, times, …): texts, numbers,
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
    shown, related = pictures(results), _related(results, tables)
    data: dict[str, Any] = {
        "start": start,
        "runs": [run.name for run in runs],
        "notes": {run.name: run.note for run in runs},
        "classes": [
            {"name": name, "colour": report_tables.colour(number)}
            for number, name in enumerate(results.names)
        ],
        "pairs": {base: said for one in related for base, said in one["pairs"].items()},
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
        "ladders": related,
        "data_pairs": bool(data["pairs"]),
        "papers": PAPERS,
        "docs": DOCS,
        "panel_count": len(shown["panels"][start]),
        "stages": data["stages"],
        "published": _quotes(quoted),
        "published_table": None if quoted is None else report_tables.published_table(quoted),
        "heatmaps": heatmaps(results.rows, results.seen) if results.scored else [],
        "details": details(results),
        "rankings": rankings(results),
        "cost": _cost(results),
        "skipped": _skipped(results),
        "warnings": _warnings(results),
        "remarks": _remarks(results),
        "provenance": _facts(
            {
                **provenance,
                "seeds": _seeds(results),
                "device_of_all_jobs": _devices(results),
                "time_of_all_jobs": _time(results),
            }
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
        "css": Markup("\n".join(map(_asset, STYLES))),
        "js": Markup("\n".join(map(_asset, SCRIPTS))),
    }
    context["sections"] = _sections(context)
    return context | opening(results, tables, context["demo"])


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
    """The run that the page shows first: of those with the most scored stages the best one.

    Final labels do not count, or an online training would come before every other run.
    """
    best = {
        line["run"]: line["miou"]
        for frame in tables.values()
        for line in frame.dropna(subset="miou").to_dict("records")
    }
    stages = {run.name: len({*results.files[run.name]} - {"labels"}) for run in results.runs}
    return max(stages, key=lambda name: (stages[name], best.get(name, 0.0)))


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


def _related(results: Results, tables: dict[str, pd.DataFrame]) -> list[dict]:
    """Every table of runs: its ladder, its cells, and how its runs compare with one another."""
    made = []
    for name, frame in tables.items():
        rows = {run: results.rows[run] for run in frame["run"]}
        others = across(rows)
        made.append(
            {
                "name": name,
                "chart": ladder(frame),
                "csv": csv_text(frame),
                "table": report_tables.runs_table(frame, name),
                "across": report_tables.across_table(others, name) if others else None,
                "pairs": pairs(rows) if len(rows) > 1 else {},
            }
        )
    return made


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
    caption = (
        "Seconds of all jobs of a stage summed, and elapsed: those in which at least one of them "
        "ran. Start-up is what no loop over images took: imports, opening files; seconds an image "
        "are those of the loops. Jobs that ran side by side shared the machine, which is in their "
        "seconds; what a job had done before it was stopped and resumed is not."
    )
    if untimed := int(table[table["stage"] == ALL].iloc[-1]["untimed"]):
        caption += f" {untimed} files are of jobs that are not known, so their time is in no sum."
    if len(devices := table["device"].dropna().unique()) == 1:
        caption, table = f"{devices[0]}. {caption}", table.drop(columns="device")
    return report_tables.plain_table(table, "cost", caption)


def _costs(results: Results) -> pd.DataFrame:
    path = results.root / "tables/cost.csv"
    return read_csv(path) if path.is_file() else pd.DataFrame()


def _devices(results: Results) -> str | None:
    """What all jobs ran on."""
    table = _costs(results)
    found = None if table.empty else table[table["stage"] == ALL].iloc[-1]["device"]
    return found if report_tables.there(found) else None


def _time(results: Results) -> str | None:
    """Elapsed and summed time of all jobs."""
    table = _costs(results)
    if table.empty:
        return None
    whole = table[table["stage"] == ALL].iloc[-1]
    words = f"{whole['seconds'] / 60:.1f} minutes summed"
    if report_tables.there(whole["elapsed_seconds"]):
        words = f"{whole['elapsed_seconds'] / 60:.1f} minutes elapsed, {words}"
    untimed = int(whole["untimed"])
    return f"{words}, without that of {untimed} files" if untimed else words


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
