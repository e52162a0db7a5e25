"""The runs table: one row is one run, and its cells name entries of the config's groups.

A cell is the name of an entry, with changes to it if wanted: `cgl` or `cgl,mu=0.8`, nested keys
with dots (`clip-es,caa.box_edge=full`). The cell is also the name of the folder that its stage
writes to, so that runs which agree up to a stage share that stage's files.
"""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clip_wsss.config import GROUPS, check_entry, entry_schema, unknown, validate
from clip_wsss.errors import InputError

COLUMNS = ("name", "base", *GROUPS, "seed", "note")
# Other tables of a results folder, which a runs table's would overwrite (docs/results.md).
RESERVED = ("confidence", "cost", "figures", "headline", "per_class")
_CELL = re.compile(r"[A-Za-z0-9_.+-]+(,[A-Za-z0-9_.]+=[A-Za-z0-9_.+-]+)*")


@dataclass(frozen=True)
class Run:
    """One row of a runs table."""

    name: str
    base: str | None  # the run that this one is compared with
    texts: str
    cam: str
    masks: str
    segmentation: str | None
    seeds: tuple[int, ...]
    note: str
    table: str  # stem of the file that the row stands in

    def cell(self, group: str) -> str | None:
        """Return the run's cell of a group."""
        return getattr(self, group)


def resolve(config: dict, group: str, cell: str) -> dict[str, Any]:
    """Return the settings that a cell stands for: its entry, with the changes after the comma.

    Raises:
        InputError: an unknown entry or key; the line names it.
    """
    name, *changes = cell.split(",")
    if name not in config[group]:
        raise InputError(f"{group}: {unknown(f'entry of `{group}`', name, config[group])}")
    entry = copy.deepcopy(config[group][name])
    for change in changes:
        key, value = change.split("=", 1)
        *parents, last = key.split(".")
        place = entry
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = place if isinstance(place, dict) else entry
            raise InputError(f"{group}: `{cell}`: {unknown('key', key, known)}")
        place[last] = yaml.safe_load(value)
    return entry


def read_runs(config: dict, schema: dict) -> list[Run]:
    """Read the tables of `config["runs"]`, add the rows of its sweeps, and check every cell.

    Raises:
        InputError: a missing table or column, a table with the name of another file, two rows of
            one name, an unknown entry, a bad seed.
    """
    runs = [run for path in config["runs"]["tables"] for run in _read_table(Path(path))]
    for number, sweep in enumerate(config["runs"]["sweeps"]):
        runs += _sweep(sweep, {run.name: run for run in runs}, f"runs.sweeps.{number}")
    if not runs:
        raise InputError("runs: there is no run; name a table in runs.tables")
    seen: dict[str, Run] = {}
    for run in runs:
        if run.name in seen:
            raise InputError(
                f"{run.table}: two rows are called `{run.name}`; a name can be used once"
            )
        seen[run.name] = run
    checked: set[tuple[str, str]] = set()
    for run in runs:
        where = f"{run.table}, row `{run.name}`"
        if run.base is not None and run.base not in seen:
            raise InputError(f"{where}: base: {unknown('run', run.base, seen)}")
        for group in GROUPS:
            cell = run.cell(group)
            if cell is not None and (group, cell) not in checked:
                _check_cell(config, schema, group, cell, where)
                checked.add((group, cell))
        cam, masks = resolve(config, "cam", run.cam), resolve(config, "masks", run.masks)
        if masks["map"] == "refined" and cam["affinity"] == "none":
            raise InputError(
                f"{where}: masks `{run.masks}` want the refined map, but cam `{run.cam}` has "
                "affinity none; use map: initial or another affinity"
            )
    return runs


def _check_cell(config: dict, schema: dict, group: str, cell: str, where: str) -> None:
    if not _CELL.fullmatch(cell):
        raise InputError(f"{where}: {group}: `{cell}` is not `entry` or `entry,key=value,…`")
    try:
        entry = resolve(config, group, cell)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    validate(entry, entry_schema(schema, group), f"{where}: {group} `{cell}`")
    check_entry(config, group, cell, entry, where)
    if group == "segmentation":
        _check_training(config, entry, f"{where}: segmentation `{cell}`")


def _check_training(config: dict, entry: dict, where: str) -> None:
    """Refuse what would stop a training after hours of CAMs."""
    if entry["precision"] == "amp" and config["compute"]["device"] == "cpu":
        raise InputError(f"{where}: precision: amp needs CUDA; set it to float32")
    segmentor = yaml.safe_load(Path(entry["segmentor"]).read_text(encoding="utf-8"))
    init = entry["init"] or segmentor.get("init") or "random"
    if init == "required":
        raise InputError(
            f"{where}: init: {entry['segmentor']} starts from weights that the run must name; set "
            "init to a file or an address with its checksum"
        )
    if init != "random" and "://" not in init and not Path(init).is_file():
        raise InputError(f"{where}: init: there is no file {init}; get it, or set init to random")


def _read_table(path: Path) -> list[Run]:
    if not path.is_file():
        raise InputError(f"runs.tables: there is no file {path}")
    if path.stem in RESERVED:
        raise InputError(
            f"runs.tables: {path}: another table is called {path.stem}.csv; rename the file"
        )
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, comment="#")
    missing = [column for column in COLUMNS if column not in table.columns]
    extra = [column for column in table.columns if column not in COLUMNS]
    if missing or extra:
        what = f"column `{missing[0]}` is missing" if missing else f"unknown column `{extra[0]}`"
        raise InputError(f"{path}: {what}; the columns are {', '.join(COLUMNS)}, tab separated")
    return [_run(row, path) for row in table.to_dict("records")]


def _run(row: dict[str, str], path: Path) -> Run:
    row = {key: value.strip() for key, value in row.items()}
    if not row["name"]:
        raise InputError(f"{path}: a row has no name")
    try:
        seeds = tuple(int(seed) for seed in row["seed"].split())
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise InputError(
            f"{path}, row `{row['name']}`: seed: `{row['seed']}` should be one or more different "
            "integers from 0, separated by spaces"
        )
    empty = ("", "-")
    return Run(
        name=row["name"],
        base=None if row["base"] in empty else row["base"],
        texts=row["texts"],
        cam=row["cam"],
        masks=row["masks"],
        segmentation=None if row["segmentation"] in empty else row["segmentation"],
        seeds=seeds,
        note=row["note"],
        table=path.stem,
    )


def _sweep(sweep: dict[str, Any], known: dict[str, Run], where: str) -> list[Run]:
    """Return one run for every combination of a sweep's values; seeds stay within a row."""
    if sweep["base"] not in known:
        raise InputError(f"{where}.base: {unknown('run', sweep['base'], known)}")
    base = known[sweep["base"]]
    if "seed" in sweep:
        base = replace(base, seeds=tuple(sweep["seed"]))
    axes = {key: values for key, values in sweep.items() if key not in ("base", "seed")}
    runs = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        run = base
        for key in sorted(axes, key=lambda key: "." in key):  # a whole cell, then its settings
            group, _, setting = key.partition(".")
            cell = run.cell(group)
            if setting and cell is None:
                raise InputError(f"{where}: {key}: run `{base.name}` has no {group}")
            text = _scalar(chosen[key])
            run = replace(run, **{group: f"{cell},{setting}={text}" if setting else text})
        words = [f"{key.rpartition('.')[2]}={_scalar(value)}" for key, value in chosen.items()]
        name = f"{base.name},{','.join(words)}" if words else f"{base.name},seeds"
        runs.append(replace(run, name=name, base=sweep["base"], note="sweep", table="sweeps"))
    return runs


def _scalar(value: Any) -> str:
    """Write a value so that YAML reads it back: `true`, `null`, 0.8, a word."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def exports_masks(config: dict, run: Run) -> bool:
    """Say whether a run writes pseudo masks.

    A map without a mask refinement is scored as it is; its masks are written where something
    needs them: a training, or a data set without ground truth, whose masks are all there is.
    """
    refined = resolve(config, "masks", run.masks)["refinement"] != "none"
    return refined or run.segmentation is not None or not has_ground_truth(config)


def has_ground_truth(config: dict) -> bool:
    """Say whether CAMs and masks can be scored on the data set."""
    return (
        config["dataset"]["masks"] is not None and config["dataset"]["splits"]["score"] is not None
    )


def metric_files(config: dict, run: Run) -> dict[str, list[str]]:
    """Return the metrics JSONs of a run, stage by stage in the order of the pipeline.

    Paths are relative to the results folder of the data set. Only `segmentation` has several
    files, one a seed.
    """
    files: dict[str, list[str]] = {}
    maps = f"metrics/{run.texts}/{run.cam}"
    masks = resolve(config, "masks", run.masks)
    if has_ground_truth(config):
        power = f"power={masks['background_power']:g}"
        files["initial"] = [f"{maps}/initial,{power}.json"]
        if masks["map"] == "refined":
            files["refined"] = [f"{maps}/refined,{power}.json"]
        if exports_masks(config, run):
            files["mask"] = [f"{maps}/{run.masks}/mask.json"]
    scored = (
        config["dataset"]["masks"] is not None and config["dataset"]["splits"]["val"] is not None
    )
    if run.segmentation is not None and scored:
        stem = f"{maps}/{run.masks}/{run.segmentation}"
        files["segmentation"] = [f"{stem}/seed{seed}/segmentation.json" for seed in run.seeds]
    return files
