"""A table of runs as CSV, Markdown and LaTeX."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clip_wsss.core.csvs import markdown_table, markdown_text, write_csv
from clip_wsss.core.files import write_text
from clip_wsss.runs.stages import MAP_STAGES, SCORED, TRAINED
from clip_wsss.score.zero_shot import PARTS

TITLES = {
    "initial": "initial CAM",
    "refined": "refined CAM",
    "mask": "pseudo mask",
    "labels": "final labels",
    "segmentation": "segmentation",
}
_PART_TITLES = {"seen": "seen classes", "unseen": "unseen classes", "harmonic": "harmonic mean"}
_NONE = pd.Series(dtype=float)  # of a column that a table does not have
_NOTES = (
    "mIoU in percent with its 95 % interval (bootstrap over the images); a segmentation of several "
    "seeds is their mean ± standard deviation, and its interval resamples the seeds too.",
    "`final labels` are those that a finished training with labels made online gives the images "
    "that masks are scored on, after the mask refinement of its inference.",
    "The difference is paired: both runs on the same resamples. It is more than noise where its "
    "interval excludes 0; with one seed the interval covers the images and not the training.",
    "`oracle` figures choose the background power p by the ground truth.",
    "A share of full supervision is that of the same segmentor trained on the ground truth.",
    "`unseen classes` are those of dataset.unseen; the harmonic mean is that of both mIoUs.",
    "`quoted` figures are published ones and were not measured here.",
)


def write_layouts(
    frame: pd.DataFrame, stem: Path, dataset: str, more_notes: Sequence[str] = ()
) -> None:
    """Write `<stem>.csv` with every column, and `<stem>.md` and `.tex` to be read.

    Args:
        frame: lines of a table of runs, in the columns that docs/results.md describes.
        stem: path without suffix.
        dataset: named in the captions.
        more_notes: below the table, after those that say what its figures are.
    """
    write_csv(frame, f"{stem}.csv")
    head, lines = _readable(frame)
    shown = {
        "final labels": frame["labels"].notna().any(),
        "quoted": (frame["kind"] == "quoted").any(),
        "full supervision": frame["segmentation_of_full"].notna().any(),
        "unseen classes": "segmentation_unseen" in frame,
    }
    notes = [note for note in _NOTES if all(shown[word] for word in shown if word in note)]
    notes += dict.fromkeys(more_notes)
    title = f"{stem.name}: {dataset}"
    write_text(f"{stem}.md", _markdown(title, head, lines, notes))
    write_text(f"{stem}.tex", _latex(title, head, lines, notes))


def _readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    stages = [stage for stage in SCORED if frame[stage].notna().any()]
    head = ["run", "base", "differs from the base", "split (images)", "seeds"]
    head += [TITLES[stage] for stage in stages]
    parts = [part for part in PARTS if frame.get(f"segmentation_{part}", _NONE).notna().any()]
    head += [f"segmentation, {_PART_TITLES[part]}" for part in parts]
    head += ["difference to the base", "more than noise", "precision"]
    compared = [part for part in PARTS if frame.get(f"difference_{part}", _NONE).notna().any()]
    head += [f"difference, {_PART_TITLES[part]}" for part in compared]
    lines = []
    for row in frame.to_dict("records"):
        if row["kind"] == "quoted":
            name = _text(f"{row['run']} (quoted: {row['source']})")
            cells = [name, "", _text(row["note"]), row["split"], ""]
            cells += [_figure(row[stage]) for stage in stages]
            lines.append([*cells, *[""] * (len(head) - len(cells))])
            continue
        cells = [row["run"], _text(row["base"]), _text(row["differs"])]
        cells += [_splits(row), _text(row["seeds"])]
        cells += [_stage(row, stage) for stage in stages]
        cells += [_part(row, f"segmentation_{part}") for part in parts]
        cells += [_difference(row), _text(row["more_than_noise"]), _precision(row)]
        lines.append([*cells, *(_part(row, f"difference_{part}", "+") for part in compared)])
    return head, lines


def _stage(row: dict, stage: str) -> str:
    if not _there(row[stage]):
        return ""
    parts = [_figure(row[stage])]
    if stage in TRAINED and _there(row[f"{stage}_sd"]):
        parts.append(f"± {_figure(row[f'{stage}_sd'])}")
    parts.append(_range(row, stage))
    if stage in MAP_STAGES:
        oracle = f"oracle {_figure(row[f'{stage}_oracle'])}, p = {row[f'{stage}_oracle_power']:g}"
        parts.append(f"({oracle})")
    if stage == "segmentation" and _there(row["segmentation_of_full"]):
        parts.append(f"({_figure(row['segmentation_of_full'])} % of full supervision)")
    if _there(row[f"{stage}_quoted"]):
        gap = f"{row[f'{stage}_minus_quoted']:+.1f}"
        parts.append(f"(quoted {_figure(row[f'{stage}_quoted'])}, difference {gap})")
    return " ".join(parts)


def _part(row: dict, name: str, sign: str = "") -> str:
    if not _there(row[name]):
        return ""
    return f"{row[name]:{sign}.1f} {_range(row, name, sign)}"


def _difference(row: dict) -> str:
    if not _there(row["difference"]):
        return _text(row["difference_note"])
    of = row["difference_of"]
    of = "" if of == row["headline"] else f" ({of})"
    return f"{row['difference']:+.1f} {_range(row, 'difference', '+')}{of}"


def _splits(row: dict) -> str:
    pairs = [(row["split"], row["images"])]
    pairs.append((row["segmentation_split"], row["segmentation_images"]))
    return ", ".join(f"{split} ({int(images)})" for split, images in pairs if _there(split))


def _precision(row: dict) -> str:
    own, other = row["precision"], row["segmentation_precision"]
    words = [own] if _there(own) else []
    if _there(other) and other != own:
        words.append(f"segmentation {other}")
    return ", ".join(words)


def _range(row: dict, name: str, sign: str = "") -> str:
    return f"[{row[f'{name}_low']:{sign}.1f}, {row[f'{name}_high']:{sign}.1f}]"


def _figure(value) -> str:
    return f"{value:.1f}" if _there(value) else ""


def _text(value) -> str:
    return " ".join(str(value).split()) if _there(value) else ""  # on one line


def _there(value) -> bool:
    return not (value is None or value == "" or (isinstance(value, float) and math.isnan(value)))


def _markdown(title: str, head: list[str], lines: list[list[str]], notes: list[str]) -> str:
    table = markdown_table([head, ["---"] * len(head), *lines])
    return f"# {title}\n\n{table}\n" + "".join(f"- {markdown_text(note)}\n" for note in notes)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "[": "{[}",  # at the start of a cell it would be read as an option of the line's end
}


def _latex(title: str, head: list[str], lines: list[list[str]], notes: list[str]) -> str:
    """Write a booktabs tabular, to be \\input; the notes are its comments."""
    body = [" & ".join(map(_escape, row)) + r" \\" for row in lines]
    return "\n".join(
        [
            *(f"% {_text(one)}" for one in (title, "needs \\usepackage{booktabs}", *notes)),
            r"\begin{tabular}{" + "l" * len(head) + "}",
            r"\toprule",
            " & ".join(map(_escape, head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _escape(text: str) -> str:
    text = text.replace("->", "\0")
    return "".join(_LATEX.get(letter, letter) for letter in text).replace("\0", r"$\to$")
