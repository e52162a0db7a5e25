"""Tables of the measured figures, with what they are compared with; all figures in percent.

Everything is computed from the metrics JSONs and the counts beside them; docs/results.md says how
to do the same by hand. Times and memory are in a table of their own (costs.py), since they are
never the same twice.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clip_wsss.bootstrap import interval
from clip_wsss.calibration import MUS, mu_curve
from clip_wsss.changes import Entries, changes, entries
from clip_wsss.layout import write_layouts
from clip_wsss.measurements import Difference, Figure, Folder, Reader, difference
from clip_wsss.metrics import MAP_STAGES, STAGES, power_key
from clip_wsss.provenance import portable
from clip_wsss.published import quoted, read_published
from clip_wsss.runs import Run, metric_files

LABEL_STAGES = ("initial", "refined", "mask")  # labels of one split, so comparable with one another


@dataclass
class Row:
    """A run with its figures.

    Attributes:
        run: its row of the runs table.
        entries: cells and settings of its groups.
        files: stage -> metrics JSONs, relative to the results folder.
        reader: where they are read.
    """

    run: Run
    entries: Entries
    files: dict[str, list[str]]
    reader: Reader = field(repr=False)

    @property
    def scoring(self) -> str:
        """Which figure of the maps is the run's: fixed or oracle."""
        return self.entries["masks"]["settings"]["scoring"]

    def figure(self, stage: str, scoring: str | None = None) -> Figure:
        """Return the figure of a stage, at the run's own background power and scoring."""
        power = self.entries["masks"]["settings"]["background_power"]
        return self.reader.figure(stage, self.files[stage], scoring or self.scoring, power)

    @cached_property
    def stages(self) -> list[str]:
        """The stages that it has, in the order of the pipeline."""
        return [stage for stage in STAGES if stage in self.files]

    @property
    def headline(self) -> Figure | None:
        """The figure of the last stage."""
        return self.figure(self.stages[-1]) if self.stages else None

    @property
    def labels(self) -> Figure | None:
        """The figure of its pseudo labels: the last stage before the segmentor."""
        there = [stage for stage in LABEL_STAGES if stage in self.files]
        return self.figure(there[-1]) if there else None


def compared(row: Row, base: Row) -> tuple[Figure, Figure] | None:
    """Choose the figures whose difference says what a row changes against its base row.

    The segmentations, where both rows have one; else the labels that each ends in (a row may end
    in the refined map and its base in the initial one: that step is the difference); else the
    last stage of both that is not the same measurement. None where everything is the same.
    """
    pairs = []
    if "segmentation" in row.files and "segmentation" in base.files:
        pairs.append((row.figure("segmentation"), base.figure("segmentation")))
    if row.labels and base.labels:
        pairs.append((row.labels, base.labels))
    for stage in reversed(LABEL_STAGES):
        if stage in row.files and stage in base.files:
            pairs.append((row.figure(stage), base.figure(stage)))
    return next((pair for pair in pairs if not pair[0].same(pair[1])), None)


def read_rows(runs: list[Run], config: dict, root: Path) -> dict[str, Row]:
    """Return the rows of all runs by name, ready to read figures from `root`."""
    evaluation = config["evaluation"]
    reader = Reader(Folder(root), evaluation["bootstrap"], evaluation["seed"])
    return {
        run.name: Row(run, entries(config, run), metric_files(config, run), reader) for run in runs
    }


def write_tables(runs: list[Run], config: dict, root: Path, out_dir: Path) -> None:
    """Write every table of figures of a results folder.

    For each runs table `<table>.csv`, `.md` and `.tex`; for all runs `figures.csv` (one line a
    figure), `per_class.csv` and `.md`, `confidence.csv` (the mu curves), `metrics.json` and
    `headline.csv` (for DVC) and `runs.json` (for clip_wsss.compare).

    Args:
        runs: the rows of all runs tables and sweeps.
        config: the whole config.
        root: the results folder of the data set.
        out_dir: where the tables go.

    Raises:
        InputError: a missing measurement, a background power that was not counted, or a file of
            published figures that cannot be used.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = read_rows(runs, config, root)
    path = config["evaluation"]["published"]
    published = None if path is None else read_published(path)
    for table in dict.fromkeys(run.table for run in runs):
        lines = [_line(row, rows, published) for row in rows.values() if row.run.table == table]
        frame = pd.DataFrame(lines + _quoted_lines(published), columns=_columns())
        write_layouts(frame, out_dir / table, config["dataset"]["name"])
    _write_csv(_figures(rows), out_dir / "figures.csv")
    per_class = _per_class(rows)
    _write_csv(per_class, out_dir / "per_class.csv")
    (out_dir / "per_class.md").write_text(_per_class_markdown(per_class), encoding="utf-8")
    _write_csv(_confidence(rows, root), out_dir / "confidence.csv")
    ends = {name: row.headline for name, row in rows.items() if row.headline}
    headline = [(name, end.stage, percent(end.value)) for name, end in ends.items()]
    _write_csv(pd.DataFrame(headline, columns=["run", "stage", "miou"]), out_dir / "headline.csv")
    numbers = {
        name: {stage: percent(row.figure(stage).value) for stage in row.stages}
        for name, row in rows.items()
    }
    _write_json(numbers, out_dir / "metrics.json")
    _write_json(_index(rows, config), out_dir / "runs.json")


def percent(share: float) -> float:
    """Return a share in percent, to four decimals, as all tables hold it."""
    return round(100 * float(share), 4)


def _columns() -> list[str]:
    columns = ["run", "kind", "base", "differs", "split", "images", "seeds", "precision"]
    for stage in STAGES:
        columns += [stage, f"{stage}_low", f"{stage}_high"]
        if stage in MAP_STAGES:
            columns += [f"{stage}_power", f"{stage}_oracle", f"{stage}_oracle_power"]
        if stage == "segmentation":
            columns += [f"{stage}_sd", f"{stage}_split", f"{stage}_images", f"{stage}_precision"]
        columns += [f"{stage}_quoted", f"{stage}_minus_quoted"]
    columns += ["headline", "scoring", "miou", "miou_low", "miou_high"]
    columns += ["difference", "difference_low", "difference_high", "difference_of"]
    return [*columns, "more_than_noise", "noise_covers", "source", "note"]


def _line(row: Row, rows: dict[str, Row], published: pd.DataFrame | None) -> dict:
    """Return a measured line of a table of runs."""
    run = row.run
    base = rows.get(run.base)
    line = {
        "run": run.name,
        "kind": "measured",
        "base": run.base,
        "differs": "; ".join(changes(base.entries, row.entries)) if base else "",
        "seeds": " ".join(map(str, run.seeds)),
        "precision": row.entries["cam"]["settings"]["precision"],
        "note": run.note,
    }
    for stage in row.stages:
        line |= _stage_cells(row, stage)
        shown, info = row.figure(stage), row.figure(stage).info
        quote = quoted(published, run.name, info["dataset"], stage, info["split"])
        if quote is not None:
            line[f"{stage}_quoted"] = quote["miou"]
            line[f"{stage}_minus_quoted"] = round(percent(shown.value) - quote["miou"], 4)
            line["source"] = quote["source"]
    if row.headline:
        line |= _interval_cells("miou", row.headline.value, row.headline.interval)
        line |= {"headline": row.headline.stage, "scoring": row.headline.scoring}
    pair = compared(row, base) if base else None
    change = difference(*pair) if pair else None
    if change:
        line |= _difference_cells(change, *pair)
    return line


def _stage_cells(row: Row, stage: str) -> dict:
    figure = row.figure(stage, "fixed")
    cells = _interval_cells(stage, figure.value, figure.interval)
    if stage in MAP_STAGES:
        oracle = figure.info["oracle"]
        cells[f"{stage}_power"] = figure.power
        cells[f"{stage}_oracle"] = percent(oracle["miou"])
        cells[f"{stage}_oracle_power"] = oracle["power"]
    if stage == "segmentation":
        cells["segmentation_sd"] = percent(figure.deviation)
        cells["segmentation_split"] = figure.info["split"]
        cells["segmentation_images"] = figure.info["images"]
        cells["segmentation_precision"] = figure.info["precision"]
    else:
        cells |= {"split": figure.info["split"], "images": figure.info["images"]}
    return cells


def _interval_cells(name: str, value: float, around) -> dict:
    return {
        name: percent(value),
        f"{name}_low": percent(around.low),
        f"{name}_high": percent(around.high),
    }


def _difference_cells(change: Difference, of: Figure, minus: Figure) -> dict:
    names = [
        f"{figure.stage} oracle" if figure.scoring == "oracle" else figure.stage
        for figure in (of, minus)
    ]
    return {
        **_interval_cells("difference", change.value, change.interval),
        "difference_of": names[0] if names[0] == names[1] else " - ".join(names),
        "more_than_noise": "yes" if change.more_than_noise else "no",
        "noise_covers": "images, seeds" if change.seeds else "images",
    }


def _quoted_lines(published: pd.DataFrame | None) -> list[dict]:
    """One line a method and split, with its quoted figures in the columns of the stages."""
    if published is None:
        return []
    lines = []
    for (method, split), group in published.groupby(["method", "split"], sort=False):
        line = {"run": method, "kind": "quoted"}
        line |= {"split": f"{group['dataset'].iloc[0]} {split}"}
        line |= dict(zip(group["stage"], group["miou"], strict=True))
        line["source"] = "; ".join(dict.fromkeys(group["source"]))
        line["note"] = "; ".join(note for note in dict.fromkeys(group["note"]) if note)
        lines.append(line)
    return lines


def _figures(rows: dict[str, Row]) -> pd.DataFrame:
    """One line a figure of a run, oracles included, with the files that it comes from."""
    lines = []
    for name, row in rows.items():
        for stage in row.stages:
            for scoring in ("fixed", "oracle") if stage in MAP_STAGES else ("fixed",):
                figure, end = row.figure(stage, scoring), row.headline
                last = figure.same(end) and figure.scoring == end.scoring
                lines.append(
                    {
                        "run": name,
                        "stage": stage,
                        "scoring": scoring,
                        "power": None if figure.power is None else power_key(figure.power),
                        "headline": "yes" if last else "no",
                        "split": figure.info["split"],
                        "images": figure.info["images"],
                        "seeds": " ".join(map(str, row.run.seeds)) if len(figure.files) > 1 else "",
                        **_interval_cells("miou", figure.value, figure.interval),
                        "sd": percent(figure.deviation),
                        "files": " ".join(figure.files),
                    }
                )
    return pd.DataFrame(lines)


def _per_class(rows: dict[str, Row]) -> pd.DataFrame:
    """One line a run, stage and class, at the run's own scoring."""
    lines = []
    for name, row in rows.items():
        for stage in row.stages:
            figure = row.figure(stage)
            for label, value, samples in zip(
                figure.names, figure.class_iou, figure.class_samples.T, strict=True
            ):
                cells = _interval_cells("iou", value, interval(samples))
                lines.append((name, stage, figure.info["split"], label, *cells.values()))
    return pd.DataFrame(lines, columns=["run", "stage", "split", "class", "iou", "low", "high"])


def _per_class_markdown(per_class: pd.DataFrame) -> str:
    """A line a class and a column a run, each at its last stage."""
    last = per_class.groupby("run", sort=False)["stage"].transform("last")
    shown = per_class[per_class["stage"] == last]
    wide = shown.pivot(index="class", columns="run", values="iou")
    wide = wide.reindex(index=shown["class"].unique(), columns=shown["run"].unique())
    stages = shown.groupby("run", sort=False)["stage"].first()
    heads = ["class", *(f"{name} ({stage})" for name, stage in stages.items())]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for label, values in wide.iterrows():
        lines.append([label, *("" if np.isnan(v) else f"{v:.1f}" for v in values)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _confidence(rows: dict[str, Row], root: Path) -> pd.DataFrame:
    """The mu curve of every set of masks, under the name of the first run that has it."""
    curves, seen = [], set()
    for name, row in rows.items():
        path = (
            Path(root, row.files["mask"][0]).with_name("confidence.parquet")
            if "mask" in row.files
            else None
        )
        if path is None or path in seen or not path.is_file():
            continue
        seen.add(path)
        curve = mu_curve(pq.read_table(path).to_pandas(), MUS)
        curve[["kept", "precision"]] = (curve[["kept", "precision"]] * 100).round(4)
        curves.append(curve.assign(run=name)[["run", "mu", "kept", "precision"]])
    empty = pd.DataFrame(columns=["run", "mu", "kept", "precision"])
    return pd.concat(curves, ignore_index=True) if curves else empty


def _index(rows: dict[str, Row], config: dict) -> dict:
    """What clip_wsss.compare needs to find and name everything."""
    return {
        "dataset": portable(config["dataset"]),
        "models": portable(config["models"]),
        "evaluation": portable(config["evaluation"]),
        "resamples": config["evaluation"]["bootstrap"],
        "seed": config["evaluation"]["seed"],
        "runs": [
            {
                "name": row.run.name,
                "table": row.run.table,
                "base": row.run.base,
                "note": row.run.note,
                "seeds": list(row.run.seeds),
                "entries": portable(row.entries),
                "files": row.files,
            }
            for row in rows.values()
        ],
    }


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, lineterminator="\n")


def _write_json(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
