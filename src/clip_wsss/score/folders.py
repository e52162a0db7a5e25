"""Label PNGs of one folder against the ground truth in another: mIoU, its interval, every class.

Whoever made the labels: the counts, the mIoU and the intervals are those of the workflow's tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from clip_wsss.core.arguments import at_least, output
from clip_wsss.core.csvs import guarded
from clip_wsss.core.errors import InputError, failed, stopped
from clip_wsss.core.files import check_target, write_rows
from clip_wsss.core.images import Colour, class_colours, contradiction, read_label
from clip_wsss.core.processes import parallel_map
from clip_wsss.data.check import FEW
from clip_wsss.data.datasets import some
from clip_wsss.data.lists import is_picture, read_ids
from clip_wsss.data.vocabulary import IGNORE, Vocabulary, duplicates, open_vocabulary
from clip_wsss.runs.settings import MOST_RESAMPLES
from clip_wsss.score.bootstrap import (
    HIT,
    Interval,
    interval,
    nan_mean,
    none_hit,
    resampled_iou,
    tally,
    tally_iou,
)
from clip_wsss.score.confusion import (
    Sparse,
    confusion_matrix,
    count_label,
    exchanged,
    exchanged_words,
)

HEAD = ("class", "iou", "low", "high")  # of the CSV


@dataclass(frozen=True)
class FolderScore:
    """What a folder of labels scores.

    Attributes:
        images: how many were scored.
        miou: mean IoU over the classes with ground truth, in [0, 1].
        interval: its 95 % interval over the images.
        iou: of every class by name, background first; NaN without ground truth.
        intervals: of every class.
        unlabelled: share of the counted pixels whose label is 255.
        ignored: share of the ground truth's pixels that are left out.
        exchanged: classes that are labelled where others are: class of the ground truth, label, and
            the IoU of the two, if at least one half.
        apart: in how many images the labels show classes, but none of those of the ground truth,
            and how many show a class in both.
    """

    images: int
    miou: float
    interval: Interval
    iou: dict[str, float]
    intervals: dict[str, Interval]
    unlabelled: float
    ignored: float
    exchanged: list[tuple[str, str, float]]
    apart: tuple[int, int]


def score_folders(
    labels: Path,
    truth: Path,
    vocabulary: Vocabulary,
    *,
    ids: Sequence[str] | None = None,
    common: bool = False,
    ignore: int | None = IGNORE,
    unlabelled: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    workers: int = 1,
) -> FolderScore:
    """Score the labels of a folder.

    Args:
        labels: holds <id>.png: 0 background, n the n-th class.
        truth: likewise, of the same sizes.
        vocabulary: the classes; a mask in RGB is read by its colours.
        ids: the images; None: all, which both folders must have.
        common: only the images (of the list) that both folders have.
        ignore: a value of the ground truth that is left out; None: no value is.
        unlabelled: whether labels may be 255: a miss of the true class, a false alarm of none.
        resamples: of the images, for the intervals.
        seed: of the resamples.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: other images or sizes in one folder, a mask that cannot be read, a value that is
            not a class, or palettes of a folder that contradict each other.
    """
    names = _ids(Path(labels), Path(truth), ids, common)
    classes = ("background", *vocabulary.classes)
    read = partial(_count, Path(labels), Path(truth), vocabulary, ignore, unlabelled)
    with parallel_map(min(workers, len(names))) as mapped:
        found = [*tqdm(mapped(read, names), total=len(names), desc="score", disable=None)]
    for folder, colours in zip(
        (labels, truth), zip(*(one[2:] for one in found), strict=True), strict=True
    ):
        if problem := contradiction(zip(names, colours, strict=True)):
            raise InputError(f"{folder}: the palettes of its masks {problem}")
    counts = pd.concat(
        [
            pd.DataFrame(dict(zip(("truth", "prediction", "pixels"), one, strict=True))).assign(
                id=name
            )
            for name, (one, *_) in zip(names, found, strict=True)
        ]
    )
    if counts.empty:
        raise InputError(f"{truth}: holds no pixel that counts; look at --ignore")
    if not counts["truth"].any():
        raise InputError(
            f"{truth}: holds no pixel of a class, only the background and what --ignore leaves "
            "out; a mask must hold 1 where the first class is, and so on"
        )
    # Images without a counted pixel are drawn by no resample, as in the tables.
    sums = tally(counts, sorted(counts["id"].unique()), len(classes))
    values, samples = tally_iou(sums.sum(axis=0)), resampled_iou(sums, resamples, seed)
    counted = counts["pixels"].sum()
    missing = counts["pixels"][counts["prediction"] == IGNORE].sum()
    return FolderScore(
        images=len(names),
        miou=float(nan_mean(values)),
        interval=interval(nan_mean(samples)),
        iou=dict(zip(classes, values.tolist(), strict=True)),
        intervals=dict(zip(classes, map(interval, samples.T), strict=True)),
        unlabelled=float(missing / counted),
        ignored=float(1 - counted / sum(pixels for _, pixels, *_ in found)),
        exchanged=[
            (classes[i], classes[j], ratio)
            for i, j, ratio in exchanged(confusion_matrix(counts, len(classes)))
        ],
        apart=_apart(counts),
    )


def _apart(counts: pd.DataFrame) -> tuple[int, int]:
    """In how many images the labels show other classes only, and how many show a class in both."""
    shown = []
    for key in ("truth", "prediction"):
        rows = counts.loc[(counts[key] > 0) & (counts[key] != IGNORE), ["id", key]]
        shown.append(set(rows.itertuples(index=False, name=None)))
    both = set.intersection(*({name for name, _ in pairs} for pairs in shown))
    return len(both - {name for name, _ in set.intersection(*shown)}), len(both)


def _ids(labels: Path, truth: Path, ids: Sequence[str] | None, common: bool) -> list[str]:
    """The images to score, sorted."""
    ours, theirs = (_pngs(folder) for folder in (labels, truth))
    if common:
        both = ours & theirs if ids is None else ours & theirs & set(ids)
        if not both:
            raise InputError(f"{labels}: has no image that {truth} has; names must be <id>.png")
        return sorted(both)
    wanted = (ours | theirs) if ids is None else set(ids)
    if not wanted:
        raise InputError("--list: names no image; add ids to it, or leave it out")
    for folder, there, other in ((labels, ours, truth), (truth, theirs, labels)):
        if lacking := sorted(wanted - there):
            raise InputError(
                f"{folder}: lacks {some(lacking)} of the {len(wanted)} images "
                f"{f'of {other}' if ids is None else 'listed'}; add them, name a list of images "
                "with --list, or score what both folders have with --common"
            )
    return sorted(wanted)


def _pngs(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found = {path.stem for path in folder.iterdir() if is_picture(path.name, [".png"])}
    if not found:
        inner = folder / "labels"  # of what `clip-wsss masks` and `export` write
        hint = f"; did you mean {inner}?" if inner.is_dir() else ""
        raise InputError(f"{folder}: must hold label PNGs, <id>.png{hint}")
    return found


def _count(
    labels: Path,
    truth: Path,
    vocabulary: Vocabulary,
    ignore: int | None,
    unlabelled: bool,
    name: str,
) -> tuple[Sparse, int, dict[int, Colour], dict[int, Colour]]:
    """The counts of an image, its pixels, and the colours of classes in labels and truth."""
    said, right = labels / f"{name}.png", truth / f"{name}.png"
    label, mask = (read_label(path, vocabulary.colours) for path in (said, right))
    if label.shape != mask.shape:
        raise InputError(
            f"{said}: is {label.shape[1]} x {label.shape[0]}, but {right} is {mask.shape[1]} x "
            f"{mask.shape[0]} (width x height); make it at the size of the ground truth"
        )
    classes = 1 + len(vocabulary.classes)
    shown = _check_values(mask, right, classes, ignore, "--ignore names a value that is left out")
    allowed, remedy = (IGNORE, "") if unlabelled else (None, "--allow-255 counts 255 as a miss")
    ours = class_colours(said, _check_values(label, said, classes, allowed, remedy))
    theirs = class_colours(right, [value for value in shown if value != ignore])
    if ignore not in (None, IGNORE):  # what counting leaves out is 255
        mask = np.where(mask == ignore, np.uint8(IGNORE), mask)
    return count_label(mask, label, classes), mask.size, ours, theirs


def _check_values(
    label: np.ndarray, path: Path, classes: int, other: int | None, remedy: str
) -> list[int]:
    """The values of labels, none of which is beyond the classes."""
    values = np.unique(label).tolist()
    strange = [v for v in values if v >= classes and v != other]
    if strange:
        raise InputError(
            f"{path}: holds the value {strange[0]}, but there are {classes - 1} classes (0 to "
            f"{classes - 1}); correct it or --vocabulary{'; ' * bool(remedy)}{remedy}"
        )
    return values


def _rows(score: FolderScore) -> list[tuple[str, ...]]:
    """Class, IoU and its interval in percent, and last the mIoU."""
    rows = [(name, score.iou[name], score.intervals[name]) for name in score.iou]
    rows.append(("mIoU", score.miou, score.interval))
    found: list[tuple[str, ...]] = [HEAD]
    for name, value, own in rows:
        figures = (value, own.low, own.high)
        found.append((name, *("" if np.isnan(one) else f"{100 * one:.2f}" for one in figures)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="clip-wsss score", description=__doc__)
    add = parser.add_argument
    add("labels", type=Path, help="folder of <id>.png, palette or grey: 0 background, n a class")
    add("truth", type=Path, help="folder of ground truth, <id>.png")
    add("--vocabulary", default="voc12", help="voc12, coco14 or a file (%(default)s)")
    add("--list", type=Path, help="the images, an id a line; without it all, which both must have")
    add("--common", action="store_true", help="score the images that both folders have")
    add("--ignore", default=str(IGNORE), help="value of the truth left out, or none (%(default)s)")
    add("--allow-255", action="store_true", help="labels may be 255: missed pixels of no class")
    count = at_least(1, MOST_RESAMPLES)
    add("--bootstrap", type=count, default=1000, help="resamples of the images (%(default)s)")
    add("--seed", type=at_least(0), default=0, help="of the resamples (%(default)s)")
    add("--workers", type=at_least(1), default=1, help="processes (%(default)s)")
    add("--csv", type=output, help="write the table there, too")
    options = parser.parse_args(arguments)
    try:
        if options.csv is not None:
            given = (options.labels, options.truth)
            check_target(options.csv, f"{','.join(HEAD)}\n", given, "--csv")
        score = score_folders(
            options.labels,
            options.truth,
            vocabulary := open_vocabulary(options.vocabulary),
            ids=None if options.list is None else _listed(options, vocabulary),
            common=options.common,
            ignore=_ignored(options.ignore),
            unlabelled=options.allow_255,
            resamples=options.bootstrap,
            seed=options.seed,
            workers=options.workers,
        )
    except InputError as error:
        return failed(error)
    except (MemoryError, OSError) as error:
        return stopped(error, options.labels)
    table = _rows(score)
    width = max(len(name) for name, *_ in table)
    shown = [row for row in table if any(row[1:])]
    for name, *figures in shown:
        print(f"{name:{width}} " + " ".join(f"{figure:>6}" for figure in figures))
    if hidden := len(table) - len(shown):
        what = (
            "class without ground truth is" if hidden == 1 else "classes without ground truth are"
        )
        print(f"{hidden} {what} not shown, and not in the mIoU")
    print(
        f"{score.images} images, 95 % intervals over images, {100 * score.unlabelled:.2f} % of the "
        f"pixels unlabelled (255), {100 * score.ignored:.2f} % of the ground truth ignored"
        + ("; intervals over so few images mean little" if score.images < FEW else "")
    )
    apart, both = score.apart
    if 2 * apart > both:
        print(
            f"warning: in {apart} of {both} images that show a class in both the labels show none "
            f"of the ground truth's; class number n of {options.vocabulary} must have the value n "
            "in both folders",
            file=sys.stderr,
        )
    elif score.exchanged:
        words = exchanged_words(score.exchanged)
        print(f"warning: {options.labels}: the labels show {words}", file=sys.stderr)
    elif both and none_hit(score.iou):
        print(
            f"warning: every class has an IoU below {HIT:.0%}: none is found, or values are others "
            "in one folder",
            file=sys.stderr,
        )
    if not both:
        print(
            f"warning: {options.labels}: holds no class, but 0 and 255 only, in every image in "
            f"which {options.truth} has one",
            file=sys.stderr,
        )
    if score.ignored > 1 / 2:
        print(
            f"warning: {options.truth}: {score.ignored:.1%} of its pixels are {options.ignore} and "
            "left out; if they are the background, make them 0",
            file=sys.stderr,
        )
    if options.labels.resolve() == options.truth.resolve():
        print("warning: this folder was compared with itself", file=sys.stderr)
    if options.csv is not None:
        try:
            write_rows(options.csv, ((guarded(name), *figures) for name, *figures in table))
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); name another file"
            return failed(InputError(f"{options.csv}: {reason}"))
    return 0


def _listed(options: argparse.Namespace, vocabulary: Vocabulary) -> list[str]:
    known = partial(_pngs, options.truth)
    ids = read_ids(options.list, options.truth.name, known, vocabulary.classes)
    if twice := duplicates(ids):
        raise InputError(f"--list: lists {some(twice)} more than once; keep one line of each")
    return ids


def _ignored(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal() or not 0 <= int(text) <= 255:
        raise InputError(f"--ignore: must be 0 to 255 or none; got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
