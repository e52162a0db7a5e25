"""The runs table: one row is one run, and its cells name entries of the config's groups.

A cell is the name of an entry, with changes to it if wanted: `cgl` or `cgl,mu=0.8`, nested keys
with dots (`clip-es,crf.image=rgb`); `-` says that the run has no such stage. Columns that a table
does not need may be left out.
"""

from __future__ import annotations

import csv
import itertools
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import decode_text, read_bytes
from clip_wsss.core.methods import method, methods_of, with_methods
from clip_wsss.core.names import KINDS
from clip_wsss.core.pickles import look_into
from clip_wsss.core.plain import check_values, plain_value
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.core.segmentors import MAKES_LABELS, read_segmentor_file
from clip_wsss.core.spelling import unknown
from clip_wsss.labels.online import resolved
from clip_wsss.runs.config import GROUPS, check_entry, merge, without_replaced
from clip_wsss.runs.settings import (
    ENTRIES,
    NAME,
    NAME_RULE,
    Cam,
    Config,
    Inference,
    Masks,
    Segmentation,
    Settings,
    Texts,
    validated,
    validated_entry,
)
from clip_wsss.runs.settings import Affinity as AffinitySettings

COLUMNS = ("name", "base", *GROUPS, "seed", "note")
# Other tables of a results folder, which a runs table's would overwrite (docs/results.md).
RESERVED = (
    *("confidence", "config", "cost", "figures", "headline", "index", "per_class", "remarks"),
    "sweeps",
)
DEFAULT_INFERENCE = "default"  # the entry that a table without the column means
_CELL = re.compile(r"[A-Za-z0-9_.+-]+(,[A-Za-z0-9_.-]+=[A-Za-z0-9_.:+/~-]+)*")
_EMPTY = ("", "-")


@dataclass(frozen=True)
class Run:
    """One row of a runs table; a group is None where the run has no such stage."""

    name: str
    base: str | None  # the run that this one is compared with
    texts: str | None = None
    cam: str | None = None
    affinity: str | None = None
    masks: str | None = None
    segmentation: str | None = None
    inference: str | None = None
    seeds: tuple[int, ...] = (0,)
    note: str = ""
    table: str = ""  # stem of the file that the row is in

    def cell(self, group: str) -> str | None:
        """Return the run's cell of a group."""
        return getattr(self, group)


@dataclass(frozen=True)
class RunSettings:
    """What the cells of a run stand for; None for a stage that it does not have."""

    texts: Texts | None = None
    cam: Cam | None = None
    affinity: AffinitySettings | None = None
    masks: Masks | None = None
    segmentation: Segmentation | None = None
    inference: Inference | None = None


def resolve(config: Config, group: str, cell: str) -> Settings:
    """Return the settings that a cell stands for: its entry, with the changes after the comma.

    Raises:
        InputError: an unknown entry or key, or a value that does not fit; the line names it.
    """
    name, *changes = cell.split(",")
    entries = getattr(config, group)
    if name not in entries:
        raise InputError(f"{group}: {unknown(f'entry of `{group}`', name, entries)}")
    if not changes:
        return entries[name]
    # What an entry does not say stays unsaid, so that a change of one field may move the default
    # of another.
    content = entries[name].model_dump(exclude_unset=True)
    said: dict[str, Any] = {}
    seen: set[str] = set()
    for change in changes:
        key, text = change.split("=", 1)
        if key in seen:
            raise InputError(f"{group}: `{cell}`: {key} is given twice; keep one")
        seen.add(key)
        *parents, last = key.split(".")
        place = said
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(f"{group}: `{cell}`: {key}: {parent} holds no settings")
        try:
            place[last] = plain_value(text)
        except InputError as error:
            raise InputError(f"{group}: `{cell}`: {key}: {error}") from None
    check_values(said, f"{group}: `{cell}`")
    return validated_entry(group, _changed(content, said, group), f"{group} `{cell}`")


def _changed(content: dict, said: dict, group: str) -> dict:
    """An entry with a cell's changes; settings of a method that they replace are left out."""
    merged = merge(content, said)
    try:
        before, after = (with_methods(ENTRIES[group], one) for one in (content, merged))
    except InputError:  # which the caller says, with the cell
        return merged
    return without_replaced(merged, said, (before, content), (after, merged))


def run_settings(config: Config, run: Run) -> RunSettings:
    """Return the settings of all stages of a run."""
    cells = {group: run.cell(group) for group in GROUPS}
    stages: dict[str, Any] = {
        group: resolve(config, group, cell) for group, cell in cells.items() if cell
    }
    return RunSettings(**stages)


def read_runs(config: Config) -> list[Run]:
    """Read the tables of `runs.tables`, add the rows of its sweeps, and check every cell.

    Raises:
        InputError: a table that cannot be used, two rows of one name, two tables of one stem, an
            unknown entry, a bad seed, bases in a circle, or a stage without what it needs.
    """
    paths = [Path(path) for path in config.runs.tables]
    for path in paths:
        if sum(other.stem.casefold() == path.stem.casefold() for other in paths) > 1:
            raise InputError(f"runs.tables: two tables are called {path.stem}; rename one")
    runs = [run for path in paths for run in _read_table(path)]
    for number, sweep in enumerate(config.runs.sweeps):
        runs += _sweep(sweep, {run.name: run for run in runs}, f"runs.sweeps.{number}")
    if not runs:
        raise InputError("runs: there is no run; name a table with rows in runs.tables")
    seen: dict[str, Run] = {}
    folded: set[str] = set()
    for run in runs:
        look = unicodedata.normalize("NFC", run.name).casefold()
        if look in folded:
            raise InputError(
                f"{run.table}: two rows are called `{run.name}`; a name can be used once, whatever "
                "its case and how its accents are stored"
            )
        folded.add(look)
        seen[run.name] = run
    checked: set[tuple[str, str]] = set()
    for run in runs:
        where = f"{run.table}, row `{run.name}`"
        _check_base(run, seen, where)
        for group in GROUPS:
            cell = run.cell(group)
            if cell is not None and (group, cell) not in checked:
                _check_cell(config, group, cell, where)
                checked.add((group, cell))
        _check_stages(config, run, where)
    return runs


def _check_base(run: Run, runs: dict[str, Run], where: str) -> None:
    line, base = [run.name], run.base
    while base is not None:
        if base not in runs:
            raise InputError(f"{where}: base: {unknown('run', base, runs)}")
        if base in line:
            circle = " -> ".join((*line, base))
            raise InputError(f"{where}: base: {circle} is a circle; name another run, or write -")
        line.append(base)
        base = runs[base].base


def _check_cell(config: Config, group: str, cell: str, where: str) -> None:
    if not _CELL.fullmatch(cell):
        more = (
            f"; a list needs an entry of `{group}`, in the config" if set(cell) & set("[{") else ""
        )
        raise InputError(
            f"{where}: {group}: `{cell}` must be `-`, `entry` or `entry,key=value,…`{more}"
        )
    try:
        entry = resolve(config, group, cell)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    check_entry(config, entry, f"{where}: {group} `{cell}`")
    if isinstance(entry, Segmentation):
        _check_training(config, entry, f"{where}: segmentation `{cell}`")


def _check_stages(config: Config, run: Run, where: str) -> None:
    """Refuse a row whose stages do not lead to one another."""
    settings = run_settings(config, run)
    head = settings.segmentation.text_head if settings.segmentation else None
    needs = {"cam": "texts", "texts": "cam", "affinity": "cam", "inference": "segmentation"}
    if head is not None:
        needs = {**needs, "texts": "segmentation", "segmentation": "texts"}
    for group, needed in needs.items():
        if run.cell(group) and not run.cell(needed):
            raise InputError(f"{where}: {group} needs {needed}; name an entry, or write - for both")
    source = settings.masks.source if settings.masks else None
    if source == "maps" and not run.cam:
        raise InputError(f"{where}: masks `{run.masks}` are made from maps; name texts and cam")
    if source in ("ground-truth", "import") and run.cam:
        cells = "texts, cam" if head is None else "cam"
        raise InputError(
            f"{where}: masks `{run.masks}` need no maps (source: {source}); write - for {cells} "
            "and affinity"
        )
    if source == "ground-truth" and config.dataset.masks is None:
        raise InputError(f"{where}: masks `{run.masks}`: the data set has none (dataset.masks)")
    if run.segmentation and not run.masks:
        raise InputError(f"{where}: segmentation needs masks; name an entry")
    if settings.segmentation and settings.segmentation.labels == "online":
        _check_online(run, settings, where)
    if head is not None:
        _check_text_head(run, settings, where)
    if settings.segmentation and settings.segmentation.seen_only and not config.dataset.unseen:
        raise InputError(
            f"{where}: segmentation `{run.segmentation}`: seen_only: true needs classes that are "
            "held out; name them in dataset.unseen"
        )
    if not run.cam and not run.masks:
        spaces = re.search(r"\s\s|\s-\s", run.name)
        tabs = "; its cells must be separated by tabs, not spaces" if spaces else ""
        raise InputError(f"{where}: has no stage; name texts and cam, or masks{tabs}")


def _check_text_head(run: Run, settings: RunSettings, where: str) -> None:
    """Refuse a text head whose texts the row does not give."""
    what = f"{where}: segmentation `{run.segmentation}`: text_head"
    texts, training = settings.texts, settings.segmentation
    assert texts is not None  # which a text head needs
    assert training is not None
    assert training.text_head is not None
    head = training.text_head
    if settings.cam is not None and settings.cam.model != head.model:
        raise InputError(
            f"{what}.model: must be that of cam `{run.cam}`, {settings.cam.model}, whose texts the "
            f"row has; got {head.model}"
        )
    if head.background == "words" and texts.background == "none":
        raise InputError(
            f"{what}.background: words, but texts `{run.texts}` has none; name a list there, or "
            "set it to learnt or none"
        )


def _check_online(run: Run, settings: RunSettings, where: str) -> None:
    """Refuse a row whose cells do not say how its labels are made online."""
    what = f"{where}: segmentation `{run.segmentation}` makes labels online (labels: online)"
    masks, online = settings.masks, settings.segmentation
    assert online is not None  # whose labels these are
    lacking = [group for group in ("texts", "cam", "affinity") if not run.cell(group)]
    if lacking or masks is None or masks.source != "maps":
        needed = ", ".join(lacking) or "masks with source: maps"
        raise InputError(f"{what} for which it needs other cells of the row; name {needed}")
    if settings.cam is not None and (settings.cam.flip or settings.cam.scales != [1.0]):
        raise InputError(
            f"{what} of what the training sees; leave scales and flip out of cam `{run.cam}`"
        )
    maker = method("labels", online.online.method)
    for field in maker.fields:
        group, key = KINDS["labels"].elsewhere.get(field, ("", ""))
        if not key or group not in ("cam", "affinity"):
            continue
        if key not in type(getattr(settings, group)).model_fields:
            raise InputError(
                f"{what} by {maker.name}, which takes `{key}` from {group}; "
                f"`{run.cell(group)}` has no such setting, so name another entry or maker"
            )
    # A maker that repeats the affinity would leave out what it does not know of it, unseen.
    elsewhere = KINDS["labels"].elsewhere
    known = {field: key for field, (group, key) in elsewhere.items() if group == "affinity"}
    taken = {known[field] for field in known.keys() & maker.fields.keys()}
    assert settings.affinity is not None
    said = settings.affinity.model_dump(exclude_defaults=True).keys()
    others = said - set(known.values()) - ({"method"} if ":" in maker.name else set())
    if others and taken and "" not in taken:  # which is all of it
        raise InputError(
            f"{what} by {maker.name}, which does not take `{min(others)}` from affinity; leave it "
            f"out of `{run.cell('affinity')}`, or name another entry or maker"
        )
    row = {group: getattr(settings, group).model_dump() for group in ("cam", "affinity", "masks")}
    labels = resolved(online.online, row)["labels"]
    if maker.settings is not None:
        own = {key: value for key, value in labels.items() if key != "method"}
        validated(with_methods(maker.settings, own), own, what, "; ")


def _check_training(config: Config, entry: Segmentation, where: str) -> None:
    """Refuse what would stop a training after hours of CAMs."""
    if entry.precision == "amp" and config.compute.device == "cpu":
        raise InputError(f"{where}: precision: amp needs CUDA; set it to float32")
    file = {} if methods_of(entry, "segmentor") else read_segmentor_file(entry.segmentor)
    kind = file["model"]["type"] if file else None  # a function says it when it is called
    if kind is not None and (kind == MAKES_LABELS) != (entry.labels == "online"):
        raise InputError(
            f"{where}: labels: {entry.labels} needs a segmentor "
            f"{'of' if entry.labels == 'online' else 'of another'} type {MAKES_LABELS}; "
            f"{entry.segmentor} is of type {kind}; change one of the two"
        )
    init = entry.init or file.get("init") or "random"
    if init == "required":
        raise InputError(
            f"{where}: init: {entry.segmentor} starts from weights that the run must name; set "
            "init to a file or an address with its checksum"
        )
    if init != "random" and "://" not in init and not is_file(init):
        raise InputError(f"{where}: init: {missing(init)}; get it, or set init to random")
    if is_file(init):
        look_into(find(init))


def _read_table(path: Path) -> list[Run]:
    if not is_file(path):
        raise InputError(f"runs.tables: {missing(path)}")
    if not re.fullmatch(NAME, path.stem):
        raise InputError(f"runs.tables: {path}: the name of a table {NAME_RULE}; rename the file")
    if path.stem.casefold() in RESERVED:
        raise InputError(
            f"runs.tables: {path}: another table is called {path.stem}.csv; rename the file"
        )
    lines = decode_text(read_bytes(find(path), "there is no such table"), str(path)).split("\n")
    rows = [
        (number, [cell.strip() for cell in row])
        for number, row in zip(
            itertools.count(1), csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        )
        if row and not row[0].startswith("#") and any(cell.strip() for cell in row)
    ]
    if not rows:
        raise InputError(f"{path}: the table is empty; its columns are {', '.join(COLUMNS)}")
    (_, head), *body = rows
    problem = None
    if "name" not in head:
        problem = "column `name` is missing"
    elif extra := [column for column in head if column not in COLUMNS]:
        problem = f"unknown column `{extra[0]}`"
    elif len(set(head)) < len(head):
        problem = "a column is given twice"
    if problem:
        raise InputError(f"{path}: {problem}; the columns are {', '.join(COLUMNS)}, tab separated")
    for number, row in body:
        if len(row) > len(head):
            raise InputError(
                f"{path}, line {number}: has {len(row)} cells, the head has {len(head)}; "
                "cells are separated by tabs"
            )
    return [_run(dict(itertools.zip_longest(head, row, fillvalue="")), path) for _, row in body]


def _run(row: dict[str, str], path: Path) -> Run:
    if not row["name"]:
        raise InputError(f"{path}: a row has no name")
    name = row["name"]
    if name == "-":
        raise InputError(f"{path}: a row is called -, which in `base` means none; rename it")
    if name.casefold() in ("na", "nan", "null", "none", "<na>", "#n/a", "#na"):
        raise InputError(
            f"{path}: a row is called {name}, which readers of CSV files take for no value; rename "
            "it"
        )
    if set(name) & set("/\\") or "." in (name[0], name[-1]) or not name.isprintable():
        raise InputError(
            f"{path}, row {name!a}: name: must be without / and \\, without a dot at its begin or "
            "end, and of characters that are printed"
        )
    if len(name.encode()) > 200:  # of the 255 that a file system takes
        raise InputError(f"{path}, row `{name[:40]}…`: name: is too long; use 200 bytes at most")
    seed = row.get("seed", "")
    seed = "0" if seed in _EMPTY else seed
    words = seed.split()
    whole = all(re.fullmatch(r"[0-9]{1,18}", word) for word in words)
    if not whole or len(set(map(int, words))) < len(words):
        raise InputError(
            f"{path}, row `{row['name']}`: seed: must be one or more different whole numbers from "
            f"0, separated by spaces; got {seed}"
        )
    cells = {group: row.get(group, "") for group in GROUPS}
    found = {group: None if cell in _EMPTY else cell for group, cell in cells.items()}
    if found["segmentation"] and "inference" not in row:
        found["inference"] = DEFAULT_INFERENCE
    base = row.get("base", "")
    return Run(
        name=row["name"],
        base=None if base in _EMPTY else base,
        **found,
        seeds=tuple(map(int, words)),
        note=row.get("note", ""),
        table=path.stem,
    )


def _sweep(sweep: dict[str, Any], known: dict[str, Run], where: str) -> list[Run]:
    """Return one run for every combination of a sweep's values; seeds stay within a row."""
    axes = _axes(sweep, where)
    if sweep["base"] not in known:
        raise InputError(f"{where}.base: {unknown('run', sweep['base'], known)}")
    base = known[sweep["base"]]
    if "seed" in sweep:
        base = replace(base, seeds=tuple(sweep["seed"]))
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
            whole = None if text == "-" else text
            changed: dict[str, Any] = {group: f"{cell},{setting}={text}" if setting else whole}
            run = replace(run, **changed)
        words = [f"{key.rpartition('.')[2]}={_scalar(value)}" for key, value in chosen.items()]
        name = f"{base.name},{','.join(words)}" if words else f"{base.name},seeds"
        runs.append(replace(run, name=name, base=sweep["base"], note="sweep", table="sweeps"))
    return runs


def _axes(sweep: dict[str, Any], where: str) -> dict[str, list]:
    """The settings that a sweep varies, with their values."""
    if not isinstance(sweep.get("base"), str):
        raise InputError(f"{where}.base: must name a run")
    axes = {key: values for key, values in sweep.items() if key not in ("base", "seed")}
    for key in axes:
        if key.partition(".")[0] not in GROUPS:
            raise InputError(f"{where}.{key}: must begin with one of {', '.join(GROUPS)}")
    for key, values in sweep.items():
        if key == "base":
            continue
        texts = [str(value) for value in values] if isinstance(values, list) else []
        if not texts or len(set(texts)) < len(texts):
            raise InputError(f"{where}.{key}: must be a list of different values; got {values!r}")
    seeds = sweep.get("seed", [])
    if not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds):
        raise InputError(f"{where}.seed: must be whole numbers from 0; got {seeds!r}")
    return axes


def _scalar(value: Any) -> str:
    """Write a value so that YAML reads it back: `true`, `null`, 0.8, a word."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
