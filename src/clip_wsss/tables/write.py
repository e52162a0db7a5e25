"""Tables of the measured figures, with what they are compared with; all figures in percent.

Everything is computed from the score.json files and the counts beside them; docs/results.md says
how to do the same by hand. Times and memory are in a table of their own (costs.py), since they are
never the same twice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clip_wsss.core.csvs import markdown_table, read_csv, write_csv
from clip_wsss.core.files import write_json, write_text
from clip_wsss.core.plain import dump_yaml
from clip_wsss.runs import sidecar
from clip_wsss.runs.config import GROUPS
from clip_wsss.runs.graph import RANKING, described
from clip_wsss.runs.nodes import Node
from clip_wsss.runs.plan import Plan, Product
from clip_wsss.runs.provenance import portable
from clip_wsss.runs.stages import LABEL_STAGES, MAP_STAGES, SCORED, TRAINED
from clip_wsss.runs.table import Run
from clip_wsss.score.bootstrap import Interval, interval
from clip_wsss.score.calibration import MUS, mu_curve
from clip_wsss.score.changes import Entries, changes, entries, flat_changes
from clip_wsss.score.measurements import Difference, Figure, Folder, Reader, difference, map_scoring
from clip_wsss.score.metrics import power_key
from clip_wsss.score.zero_shot import PARTS, HeldOut
from clip_wsss.tables import remarks
from clip_wsss.tables.layout import write_layouts
from clip_wsss.tables.published import about, quoted, read_published

INDEX_FORMAT = 2  # of runs.json; before 2 the stages were not a graph
FIGURE_COLUMNS = [
    "run", "stage", "scoring", "power", "headline", "split", "images", "seeds",
    "miou", "miou_low", "miou_high", "sd", "precision", "recall", "confusion", "files",
]  # fmt: skip
_ENDS = ("", "_low", "_high")
PART_COLUMNS = [f"miou_{part}{end}" for part in PARTS for end in _ENDS]
RATES = ("precision", "recall", "confusion")  # of a class: `clip_wsss.score.bootstrap.tally_rates`
SAME_SETTINGS = "same settings as its base"
SAME_FIGURES = "all figures in common are the same"
NOT_COMPARABLE = "not comparable: another split, other classes or other images"


@dataclass
class Row:
    """A run with its figures.

    Attributes:
        run: its row of the runs table.
        path: its stages by group.
        entries: what they are made with.
        files: stage -> score.json files, relative to the results folder.
        scoring: which figure of the maps is the run's: fixed or oracle.
        power: the background power of its maps where it is fixed.
        reader: where figures are read.
    """

    run: Run
    path: dict[str, Node]
    entries: Entries
    files: dict[str, list[str]]
    scoring: str
    power: float
    reader: Reader = field(repr=False)

    def figure(self, stage: str, scoring: str | None = None) -> Figure:
        """Return the figure of a stage, at the run's own background power and scoring."""
        return self.reader.figure(stage, self.files[stage], scoring or self.scoring, self.power)

    def up_to_masks(self) -> "Row":
        """The same without its training: what its pseudo labels come from."""
        groups = ("texts", "cam", "affinity", "masks")
        return replace(
            self,
            run=replace(self.run, seeds=(0,)),
            entries={group: self.entries[group] if group in groups else None for group in GROUPS},
            files={stage: files for stage, files in self.files.items() if stage in LABEL_STAGES},
        )

    @cached_property
    def stages(self) -> list[str]:
        """The scored stages that it has, in the order of the pipeline."""
        return [stage for stage in SCORED if stage in self.files]

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

    The segmentations, where both rows have one, or the labels that both trainings give in the end;
    else the labels that each ends in before (a row may end in the refined map and its base in the
    initial one: that step is the difference); else the last stage of both that is not the same
    measurement. None where everything is the same.
    """

    def both(*stages: str) -> list[tuple[Figure, Figure]]:
        common = [stage for stage in stages if stage in row.files and stage in base.files]
        return [(row.figure(stage), base.figure(stage)) for stage in common]

    pairs = both(*reversed(TRAINED))
    if row.labels and base.labels:
        pairs.append((row.labels, base.labels))
    pairs += both(*reversed(LABEL_STAGES))
    return next((pair for pair in pairs if not pair[0].same(pair[1])), None)


def read_rows(plan: Plan) -> dict[str, Row]:
    """Return the rows of all runs by name, ready to read figures."""
    evaluation, graph = plan.config.evaluation, plan.graph
    unseen = tuple(plan.config.dataset.unseen)
    held_out = HeldOut(unseen, evaluation.unseen_background) if unseen else None
    reader = Reader(Folder(plan.root), evaluation.bootstrap, evaluation.seed, held_out)
    return {
        run.name: Row(
            run,
            graph.paths[run.name],
            _with_template(plan, run),
            graph.scores(run),
            *map_scoring(graph, run),
            reader,
        )
        for run in graph.runs
    }


def _with_template(plan: Plan, run: Run) -> Entries:
    """What a run is made with, and of ranked texts the template that was chosen."""
    found, texts = entries(plan.graph, run), plan.graph.paths[run.name].get("texts")
    if texts is not None and texts.identity["template"] == "sharpest":
        own = found["texts"]
        assert own is not None  # the run has texts
        ranking = read_csv(plan.root / texts.folder / RANKING)
        chosen = ranking.loc[ranking["rank"] == 1, "template"].iloc[0]
        for part in (own["settings"], own["identity"]):
            part["template"] = f"sharpest ({chosen})"
    return found


def check_measurements(plan: Plan) -> None:
    """Make sure that measurements, rankings of templates and logs are what the plan says.

    Raises:
        InputError: one is missing, was made by other settings or other code, or was changed since.
    """
    for product in (*plan.scores, *([] if plan.tag_score is None else [plan.tag_score])):
        sidecar.check(product.sidecar, product.stamp)
    for product in plan.rankings:
        sidecar.check(product.sidecar, product.stamp, ["sharpness"])
    for product in plan.trainings:
        sidecar.check(product.sidecar, product.stamp, ["log"])


def write_tables(plan: Plan, out_dir: Path | None = None) -> None:
    """Write every table of figures of a results folder, and what its folders hold.

    For each runs table `<table>.csv`, `.md` and `.tex`; for all runs `figures.csv` (one line a
    figure), `per_class.csv` and `.md`, `confidence.csv` (the mu curves), `metrics.json` and
    `headline.csv` (for DVC), `remarks.csv` (what was counted beside), `runs.json` (for
    clip_wsss.compare), `index.csv` (the folder of every stage of a run), and `config.yaml` (the
    resolved config, which can be used as one: paths outside of the project are in it as they were
    given). In the folder of every stage `settings.yaml`: its settings and those of the stages
    before it, defaults left out.

    Args:
        plan: of the results.
        out_dir: where the tables go; None: `tables` in the results folder.

    Raises:
        InputError: a measurement that is missing or does not fit the plan, a background power that
            was not counted, or a file of published figures that cannot be used.
    """
    check_measurements(plan)
    out_dir = plan.root / "tables" if out_dir is None else Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = read_rows(plan)
    path = plan.config.evaluation.published
    published = None if path is None else read_published(path)
    remarked = remarks.table([line for row in rows.values() for line in _remarks(row, plan)])
    write_csv(remarked, out_dir / "remarks.csv")
    for table in plan.graph.tables:
        own = {name: row for name, row in rows.items() if row.run.table == table}
        lines = [_line(row, rows, own, published) for row in own.values()]
        frame = pd.DataFrame(lines + _quoted_lines(published), columns=_columns(plan))
        weights = [plan.graph.models(row.run) for row in own.values()]
        notes = [f"{row.run.name}: {row.run.note}." for row in own.values() if row.run.note]
        notes += remarks.notes(remarked, list(own))
        notes += [f"Weights of {n}: {m.origin}." for one in weights for n, m in one.items()]
        write_layouts(frame, out_dir / table, plan.config.dataset.name, notes)
    write_csv(_figures(rows), out_dir / "figures.csv")
    per_class = _per_class(rows)
    write_csv(per_class, out_dir / "per_class.csv")
    write_text(out_dir / "per_class.md", _per_class_markdown(per_class))
    write_csv(_confidence(rows, plan.root), out_dir / "confidence.csv")
    ends = {name: row.headline for name, row in rows.items() if row.headline}
    headline = [(name, end.stage, end.scoring, percent(end.value)) for name, end in ends.items()]
    columns = ["run", "stage", "scoring", "miou"]
    write_csv(pd.DataFrame(headline, columns=columns), out_dir / "headline.csv")
    numbers = {name: _numbers(map(row.figure, row.stages)) for name, row in rows.items()}
    write_json(out_dir / "metrics.json", numbers, sort_keys=False)
    write_json(out_dir / "runs.json", _runs(rows, plan), sort_keys=False)
    folders = pd.DataFrame(described(plan.graph), columns=["run", "stage", "folder"])
    write_csv(folders, out_dir / "index.csv")
    write_text(out_dir / "config.yaml", dump_yaml(portable(plan.resolved, keep=True)))
    for file, lineage in plan.lineages.items():
        write_text(file, dump_yaml(portable(lineage)))


def _remarks(row: Row, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The remarks of a run: run, stage, and what is said."""
    if plan.graph.tags is not None:
        scored = (
            None if plan.tag_score is None else row.reader.info(_relative(plan.tag_score, plan))
        )
        yield row.run.name, remarks.OF_SPLIT, remarks.of_tags(plan.graph.tags.label, scored)
    for stage in row.stages:
        power = row.figure(stage).power
        if power is not None and power != row.power:  # the oracle's
            words = f"its differences, classes and headline take p = {power_key(power)}"
            yield row.run.name, stage, f"{words}, an oracle: chosen by the ground truth"
        for info in map(row.reader.info, row.files[stage]):
            seed = f"seed {info['seed']}: " if len(row.files[stage]) > 1 else ""
            for words in remarks.remarks_of(info):
                yield row.run.name, stage, f"{seed}{words}"
            for words in remarks.remarks_of_split(info):
                yield row.run.name, remarks.OF_SPLIT, words
    for number in row.run.seeds if "segmentation" in row.path else ():
        log = plan.training(row.path["segmentation"], number).files[-1]
        for words in remarks.remarks_of_training(log):
            yield row.run.name, "segmentation", f"seed {number}: {words}"


def _relative(product: Product, plan: Plan) -> str:
    """The first file of a product, relative to the results."""
    return product.files[0].relative_to(plan.root).as_posix()


def _named(figure: Figure) -> str:
    """The stage of a figure, and that an oracle chose its power."""
    return f"{figure.stage} oracle" if figure.scoring == "oracle" else figure.stage


def _numbers(figures: Iterable[Figure]) -> dict[str, float]:
    """What DVC shows of a run: the mIoU of each stage, and of its parts where there are any."""
    found = {}
    for figure in figures:
        found[_named(figure)] = percent(figure.value)
        for part, (value, _) in figure.parts.items():
            found[f"{_named(figure)} {part}"] = percent(value)
    return found


def percent(share: float) -> float:
    """Return a share in percent, to four decimals, as all tables hold it."""
    return round(100 * float(share), 4)


def _columns(plan: Plan) -> list[str]:
    parts = PARTS if plan.config.dataset.unseen else ()
    columns = ["run", "kind", "base", "differs", "split", "images", "seeds", "precision"]
    for stage in SCORED:
        columns += [stage, f"{stage}_low", f"{stage}_high"]
        if stage in MAP_STAGES:
            columns += [f"{stage}_power", f"{stage}_oracle", f"{stage}_oracle_power"]
        columns += [f"{stage}_sd"] * (stage in TRAINED)
        if stage == "segmentation":
            columns += [f"{stage}_{part}{end}" for part in parts for end in _ENDS]
            columns += [f"{stage}_of_full"]
            columns += [f"{stage}_split", f"{stage}_images", f"{stage}_precision"]
        columns += [f"{stage}_quoted", f"{stage}_minus_quoted"]
    columns += ["headline", "scoring", "miou", "miou_low", "miou_high"]
    columns += ["difference", "difference_low", "difference_high", "difference_of"]
    columns += [f"difference_{part}{end}" for part in parts for end in _ENDS]
    columns += ["difference_note", "more_than_noise", "noise_covers"]
    return [*columns, "source", "note"]


def _line(
    row: Row, rows: dict[str, Row], table: dict[str, Row], published: pd.DataFrame | None
) -> dict:
    """Return a measured line of a table of runs."""
    run = row.run
    base = rows.get(run.base) if run.base else None
    cam = row.entries["cam"]
    line = {
        "run": run.name,
        "kind": "measured",
        "base": run.base,
        "differs": "",
        "seeds": " ".join(map(str, run.seeds)),
        "precision": cam["settings"]["precision"] if cam else None,
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
    full = _full_supervision(row, table)
    if full is not None and full.figure("segmentation").value > 0:
        share = row.figure("segmentation").value / full.figure("segmentation").value
        line["segmentation_of_full"] = percent(share)
    return line | (against(row, base) if base else {})


def against(row: Row, base: Row) -> dict:
    """What a row changes against another and by how much: the cells of a row with that base."""
    return {"differs": "; ".join(_changes(base, row)), **_against(base, row)}


def _changes(base: Row, row: Row) -> list[str]:
    """What a row's settings change against its base's, in words."""
    words = changes(base.entries, row.entries)
    words += flat_changes({"scoring": base.scoring}, {"scoring": row.scoring})
    seeds = [" ".join(map(str, one.run.seeds)) for one in (base, row)]
    if not words and seeds[0] != seeds[1]:  # else the column of seeds says so
        words.append(f"seeds: {seeds[0]} -> {seeds[1]}")
    return words


def _against(base: Row, row: Row) -> dict:
    """The cells of the difference to the base, or why there is none."""
    pair = compared(row, base)
    change = difference(*pair) if pair else None
    if pair and change:
        return _difference_cells(change, *pair)
    if all(getattr(row, key) == getattr(base, key) for key in ("path", "scoring", "power")) and set(
        row.run.seeds
    ) == set(base.run.seeds):
        return {"difference_note": SAME_SETTINGS}
    if pair:
        return {"difference_note": NOT_COMPARABLE}
    common = set(row.files) & set(base.files)
    return {"difference_note": SAME_FIGURES} if common else {}


def _full_supervision(row: Row, table: dict[str, Row]) -> Row | None:
    """The first row of the table of the same segmentor and inference that saw all true masks."""
    if "segmentation" not in row.files:
        return None
    own = _trained(row)
    return next(
        (
            other
            for other in table.values()
            if "segmentation" in other.files
            and other.path["masks"].settings["source"] == "ground-truth"
            and "unseen" not in other.path["segmentation"].identity
            and _trained(other) == own
        ),
        None,
    )


def _trained(row: Row) -> tuple:
    """What the figures of two segmentations must share to be a share of one another."""
    training = row.path["segmentation"].identity
    return training["segmentor"], training.get("text_head"), row.path["inference"].identity


def _stage_cells(row: Row, stage: str) -> dict:
    figure = row.figure(stage, "fixed")
    cells = _interval_cells(stage, figure.value, figure.interval)
    if stage in MAP_STAGES:
        oracle = figure.info["oracle"]
        cells[f"{stage}_power"] = figure.power
        cells[f"{stage}_oracle"] = percent(oracle["miou"])
        cells[f"{stage}_oracle_power"] = oracle["power"]
    if stage in TRAINED:
        cells[f"{stage}_sd"] = percent(figure.deviation)
    if stage == "segmentation":
        cells |= _part_cells(stage, figure.parts)
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


def _part_cells(name: str, parts: dict[str, tuple[float, Interval]]) -> dict:
    """The cells of seen, unseen and harmonic; none where no class is held out."""
    cells: dict[str, float] = {}
    for part, (value, around) in parts.items():
        cells |= _interval_cells(f"{name}_{part}", value, around)
    return cells


def _difference_cells(change: Difference, of: Figure, minus: Figure) -> dict:
    names = [_named(figure) for figure in (of, minus)]
    return {
        **_interval_cells("difference", change.value, change.interval),
        "difference_of": names[0] if names[0] == names[1] else " - ".join(names),
        **_part_cells("difference", change.parts),
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
        line["note"] = "; ".join(dict.fromkeys(filter(None, map(about, group.to_dict("records")))))
        lines.append(line)
    return lines


def _figures(rows: dict[str, Row]) -> pd.DataFrame:
    """One line a figure of a run, oracles included, with the files that it comes from."""
    lines = []
    for name, row in rows.items():
        for stage in row.stages:
            for scoring in ("fixed", "oracle") if stage in MAP_STAGES else ("fixed",):
                figure, end = row.figure(stage, scoring), row.headline
                last = end is not None and figure.same(end) and figure.scoring == end.scoring
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
                        **_part_cells("miou", figure.parts),
                        **dict(zip(RATES, map(percent, figure.rates), strict=True)),
                        "files": " ".join(figure.files),
                    }
                )
    parts = [one for one in PART_COLUMNS if lines and one in lines[0]]
    return pd.DataFrame(lines, columns=[*FIGURE_COLUMNS, *parts])


def _per_class(rows: dict[str, Row]) -> pd.DataFrame:
    """One line a run, stage and class, at the run's own scoring."""
    lines = []
    for name, row in rows.items():
        for stage in row.stages:
            figure = row.figure(stage)
            for label, value, samples, rates in zip(
                figure.names,
                figure.class_iou,
                figure.class_samples.T,
                figure.class_rates,
                strict=True,
            ):
                cells = _interval_cells("iou", value, interval(samples)).values()
                split = figure.info["split"]
                lines.append((name, stage, split, label, *cells, *map(percent, rates)))
    heads = ["run", "stage", "split", "class", "iou", "low", "high", *RATES]
    return pd.DataFrame(lines, columns=heads)


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
        lines.append([str(label), *("" if np.isnan(v) else f"{v:.1f}" for v in values)])
    return markdown_table(lines)


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


def _runs(rows: dict[str, Row], plan: Plan) -> dict:
    """What clip_wsss.compare needs to find and name everything."""
    config = plan.config
    unsaid = set() if config.dataset.unseen else {"unseen", "unseen_background"}
    return {
        "format": INDEX_FORMAT,
        "dataset": portable(config.dataset.model_dump(exclude=unsaid)),
        "evaluation": portable(config.evaluation.model_dump(exclude=unsaid)),
        "resamples": config.evaluation.bootstrap,
        "seed": config.evaluation.seed,
        "runs": [
            {
                "name": row.run.name,
                "table": row.run.table,
                "base": row.run.base,
                "note": row.run.note,
                "seeds": list(row.run.seeds),
                "scoring": row.scoring,
                "background_power": row.power,
                "entries": row.entries,
                "files": row.files,
            }
            for row in rows.values()
        ],
    }
