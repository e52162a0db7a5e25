"""One look at all data that the runs will use, before anything is computed from them."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import write_json
from clip_wsss.core.images import Colour, class_colours, contradiction, jpeg_damage
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.regions import read_regions
from clip_wsss.data.annotations import unused_columns
from clip_wsss.data.bad_images import may_be_left_out
from clip_wsss.data.datasets import TAGCLIP, Dataset, some
from clip_wsss.data.lists import is_picture
from clip_wsss.data.vocabulary import IGNORE

log = logging.getLogger(__name__)
LINES = 50  # of errors that are printed
CHUNK = 64  # images that a process takes at a time
FEW = 30  # images, below which intervals mean little
MASKS = 4  # below which it may be chance that all hold 1 and no background
BARELY = 0.1  # of a mask's pixels: what is ignored where 0 stands for that, such as borders


@dataclass(frozen=True)
class Use:
    """What the runs need of the images of a split.

    Attributes:
        labels: image-level labels.
        masks: the ground truth.
        imports: folders of masks that other code made, each with that of its confidences or None.
        regions: folders of regions that vote (`clip_wsss.core.regions`).
        bare: texts without background words, with which maps compare the classes of an image.
        mu: the largest of the trainings on imported confidences.
    """

    labels: bool = False
    masks: bool = False
    imports: Sequence[Sequence[str | None]] = ()
    regions: Sequence[str] = ()
    bare: Sequence[str] = ()
    mu: float = 0.0


@dataclass(frozen=True)
class _Look:
    """What one image showed: what is wrong, (H, W), its classes, and its mask's pixels by value.

    `damage` is what its JPEG's decoder complains of and `other` the image that its XML names
    instead, or None each; `surest` are the largest of its imported confidences, and of those of
    classes; by the folders of imported masks `imported` are the pixels by value, and `colours` what
    palettes give the classes in them, those of the ground truth under ''. In the folders
    `without_regions` its file holds no region.
    """

    problems: tuple[str, ...]
    size: tuple[int, int] | None
    damage: str | None
    labels: frozenset[int] | None
    other: str | None
    truth: Mapping[int, int] | None
    surest: tuple[float, float] | None
    colours: Mapping[str, Mapping[int, Colour]]
    imported: Mapping[str, Mapping[int, int]]
    without_regions: frozenset[str]


def check(dataset: Dataset, uses: Mapping[str, Use], workers: int = 1) -> dict[str, Any]:
    """Read the lists, labels, image headers and masks that the runs will use.

    Args:
        dataset: images, labels, ground truth.
        uses: split -> what is needed of it.
        workers: processes; they change nothing but the time.

    Returns:
        splits: split -> images, smallest and largest (width x height), sizes (height and width of
            the lowest, highest, narrowest and widest), how many images have each class in the
            labels and in the masks, and how many disagree;
        errors and warnings: lines, shortened as those of `InputError`, in the order of splits and
            images. With `on_bad_image: skip` an image that cannot be used is a warning.
    """
    report: dict[str, Any] = {"splits": {}, "errors": [], "warnings": []}
    for split, use in uses.items():
        try:
            ids = dataset.ids(split)
        except InputError as error:
            if str(error) not in report["errors"]:  # a folder that all splits lack
                report["errors"].append(str(error))
            continue
        parts = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        looks: dict[str, _Look] = {}
        with (
            parallel_map(min(workers, len(parts))) as mapped,
            tqdm(total=len(ids), desc=f"check {split}", unit="image", disable=None) as bar,
        ):
            for part, found in zip(
                parts, mapped(partial(_look_at, dataset, use), parts), strict=True
            ):
                looks |= zip(part, found, strict=True)
                bar.update(len(part))
        problems = [line for look in looks.values() for line in look.problems]
        good = {name: look for name, look in looks.items() if not look.problems}
        # A line that two splits share, such as of a damaged list of labels, is said once.
        known = {*report["errors"], *report["warnings"]}
        new = [line for line in dict.fromkeys(problems) if line not in known]
        if good and may_be_left_out(dataset):
            report["warnings"] += [f"left out: {line}" for line in new]
        else:
            report["errors"] += new
        numbers, errors, warnings = _compared(dataset, split, use, good)
        report["splits"][split] = {"images": len(ids), **numbers}
        report["errors"] += errors
        report["warnings"] += warnings
    report["errors"] += [*_outside(dataset, uses), *_true_labels(dataset, uses)]
    report["warnings"] += _not_looked_at(dataset, uses)
    return report | {key: list(map(one_line, report[key])) for key in ("errors", "warnings")}


def _outside(dataset: Dataset, uses: Mapping[str, Use]) -> list[str]:
    """What is to be scored, but gets no maps and masks."""
    splits = dataset.settings.get("splits") or {}
    pseudo, score = splits.get("pseudo"), splits.get("score")
    if score is None or score not in uses or pseudo is None:
        return []
    try:
        made, scored = set(dataset.ids(pseudo)), dataset.ids(score)
    except InputError:
        return []  # which was said
    names = [name for name in scored if name not in made]
    return [
        f"dataset.splits.score: {some(names)} of {score} are not in {pseudo} (splits.pseudo), so "
        "they get no masks to score; name a list that is a part of it"
    ] if names else []  # fmt: skip


def _true_labels(dataset: Dataset, uses: Mapping[str, Use]) -> list[str]:
    """What is wrong with the labels by which predicted ones are scored."""
    truth = (dataset.settings.get("tagclip") or {}).get("truth")
    split = (dataset.settings.get("splits") or {}).get("score")
    predicted = dataset.settings["labels"] == TAGCLIP and truth is not None
    if not predicted or split is None or split not in uses:
        return []
    given = Dataset({**dataset.settings, "labels": truth, "tagclip": None}, dataset.vocabulary)
    found: dict[str, None] = {}
    with suppress(InputError):  # of the list, which was said
        for name in dataset.ids(split):
            try:
                given.labels(name)
            except InputError as error:
                found[f"dataset.tagclip.truth: {error}"] = None
    return list(found)


def _not_looked_at(dataset: Dataset, uses: Mapping[str, Use]) -> list[str]:
    """What no image shows: files and columns that are left out, a val that the training sees."""
    said, folder = [], dataset.image_folder
    whole = any(dataset.split_file(split) is None for split in uses)
    if whole and folder != dataset.root:  # where masks and results may lie in folders within it
        deeper = [one for one in folder.glob("*/**/*") if is_picture(one.name)]
        if deeper:
            said.append(
                f"{folder}: {len(deeper)} images in folders within it are left out "
                f"({deeper[0].relative_to(folder)}, ...); move them up, or list them"
            )
    labels = str(dataset.settings.get("labels"))
    if any(use.labels for use in uses.values()) and labels.lower().endswith(".csv"):
        with suppress(InputError):  # which each image has said
            if columns := unused_columns(labels):
                said.append(
                    f"{labels}: the columns {', '.join(columns)} are not used: every row counts as "
                    "a label, whatever they say"
                )
    splits = dataset.settings.get("splits") or {}
    pseudo, val = splits.get("pseudo"), splits.get("val")
    if pseudo is not None and val is not None and {pseudo, val} <= uses.keys():
        with suppress(InputError):  # which was said
            both = sorted({*dataset.ids(pseudo)} & {*dataset.ids(val)})
            if both:
                said.append(
                    f"dataset.splits.val: {some(both)} of {val} are in {pseudo} (splits.pseudo) "
                    "too, so predictions are scored on images of the training"
                )
    return said


def write_check(
    dataset: Dataset,
    uses: Mapping[str, Use],
    path: str | Path,
    workers: int = 1,
    others: Callable[[list[list[int]]], Sequence[str]] = lambda sizes: [],
) -> None:
    """Write what `check` returns as JSON, and log its warnings.

    Args:
        dataset: images, labels, ground truth.
        uses: split -> what is needed of it.
        path: of the JSON.
        workers: processes.
        others: called after them with the sizes that trainings get (`trained_sizes`); finds
            errors of what is not data, a line each.

    Raises:
        InputError: there are errors, a line each, at most 50 and a count of the others.
    """
    report = check(dataset, uses, workers)
    report["errors"] = [*others(trained_sizes(dataset, report)), *report["errors"]]
    write_json(path, report)
    for line in report["warnings"]:
        log.warning("%s", line)
    if report["errors"]:
        raise InputError("\n".join(shortened(report["errors"])))


def trained_sizes(dataset: Dataset, report: Mapping[str, Any]) -> list[list[int]]:
    """Height and width of the most unlike images of a report that trainings see."""
    split = (dataset.settings.get("splits") or {}).get("pseudo")
    return report["splits"].get(split, {}).get("sizes", [])


def shortened(lines: Sequence[str]) -> list[str]:
    """The first 50 lines, and how many more there are."""
    more = len(lines) - LINES
    return [*lines[:LINES], *([f"and {more} more"] if more > 0 else [])]


def _look_at(dataset: Dataset, use: Use, names: Sequence[str]) -> list[_Look]:
    return [_look(dataset, use, name) for name in names]


def _look(dataset: Dataset, use: Use, name: str) -> _Look:
    problems: list[str] = []

    def attempt(read, *arguments, needed: bool = True):
        try:
            return read(name, *arguments)
        except InputError as error:
            if needed and str(error) not in problems:
                problems.append(str(error))
            return None

    size = attempt(dataset.size)
    damage = None if size is None else attempt(lambda one: jpeg_damage(dataset.image_path(one)))
    labels = attempt(dataset.labels, needed=use.labels)
    other = attempt(dataset.xml_image, needed=False) if use.labels else None
    mask = attempt(dataset.mask) if use.masks and size is not None else None
    values: dict[str, dict[int, int]] = {}
    surest: list[tuple[float, float]] = []
    for folder, confidences in use.imports if size is not None else ():
        imported = attempt(dataset.imported_mask, folder, confidences)
        if imported is not None:
            values[str(folder)] = _pixels(imported[0])
        if imported is not None and imported[1] is not None:
            label, confidence = imported
            of_classes = confidence[(label > 0) & (label < IGNORE)]
            counted = confidence[label < IGNORE]
            surest.append((float(counted.max(initial=0)), float(of_classes.max(initial=0))))
    bare = set()
    for folder in use.regions if size is not None else ():
        regions = attempt(lambda one, where, shape: read_regions(where, one, shape), folder, size)
        if regions is not None and not regions.any():
            bare.add(str(folder))
    truth = None if mask is None else _pixels(mask)
    classes = None if labels is None else frozenset(labels)
    colours = {
        folder: class_colours(Path(folder) / f"{name}.png", values[folder]) for folder in values
    }
    if truth is not None and (path := dataset.mask_path(name)) is not None:
        colours[""] = class_colours(path, truth)
    largest = tuple(map(max, zip(*surest, strict=True))) if surest else None
    seen = (size, damage, classes, other, truth, largest, colours, values, frozenset(bare))
    return _Look(tuple(problems), *seen)


def _pixels(mask: np.ndarray) -> dict[int, int]:
    """Pixels of a mask (H, W) uint8 by their value."""
    counts = np.bincount(mask.ravel(), minlength=256)
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}


def _classes(pixels: Mapping[int, int], first: int = 1) -> frozenset[int]:
    """The classes, 0-based, of a mask in which the first class has the value `first`."""
    return frozenset(value - first for value in pixels if first <= value < IGNORE)


def _background(
    of: str, masks: Sequence[Mapping[int, int]], pairs: Sequence[tuple[frozenset, Mapping]]
) -> tuple[list[str], list[str]]:
    """Errors and warnings of masks of which most hold no background, or barely any.

    Where every pixel shows a class, or nothing but classes was drawn, that is right. So it is an
    error only if all masks hold 1, and most fit the labels when 1 is subtracted.

    Args:
        of: begins the line, with the split and the masks.
        masks: pixels by value.
        pairs: classes of an image, by its labels, and its mask's pixels by value.
    """
    masks = [mask for mask in masks if set(mask) != {IGNORE}]  # which are said themselves
    shares = [mask.get(0, 0) / sum(mask.values()) for mask in masks]
    most, above = max(shares, default=1), sum(share > BARELY for share in shares)
    if 2 * above >= len(shares):
        return [], []
    apart = f"but {above} of {len(shares)} " if above else ""
    line = f"{of}{apart}holds 0 (background)"
    line += f" in more than {min(most, BARELY):.1%} of its pixels" if most else ""
    fit, fit_less = (
        sum(_classes(mask, first) == shown for shown, mask in pairs) for first in (1, 2)
    )
    if (
        len(masks) >= MASKS
        and all(1 in mask for mask in masks)
        and fit_less > max(fit, len(pairs) / 2)
    ):
        return [
            f"{line}, and all {len(masks)} hold 1; {fit} of {len(pairs)} show just the classes of "
            f"the labels, and {fit_less} would with 1 less; if 1 is the background, subtract 1 "
            f"from all values but {IGNORE}, and make 0 {IGNORE}"
        ], []
    total = sum(map(Counter, masks), Counter())
    ignored = total[IGNORE] / total.total()
    if ignored > 0.5:
        line += f", and {ignored:.0%} of all pixels are {IGNORE} (ignored)"
    elif most:
        return [], []
    return [], [f"{line}; if another value is the background, write 0 in its place"]


def _compared(
    dataset: Dataset, split: str, use: Use, looks: Mapping[str, _Look]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Numbers of a split, and errors and warnings that no image shows alone."""
    errors, warnings = [], []
    classes = dataset.vocabulary.classes
    labelled = Counter(label for look in looks.values() for label in look.labels or ())
    truths = {name: look.truth for name, look in looks.items() if look.truth is not None}
    drawn = Counter(label for mask in truths.values() for label in _classes(mask))

    def with_labels(masks: Mapping[str, Mapping[int, int]]) -> dict[str, tuple]:
        """Labels and mask of the images that have both."""
        found = {name: (looks[name].labels, mask) for name, mask in masks.items()}
        return {name: pair for name, pair in found.items() if pair[0] is not None}

    def background(of: str, masks: Mapping[str, Mapping[int, int]]) -> list[str]:
        """The error of masks that hold the background as another value; a warning is added."""
        found, doubts = _background(
            f"split {split}: no mask {of}", [*masks.values()], [*with_labels(masks).values()]
        )
        warnings.extend(doubts)
        return found

    both = {name: (labels, _classes(mask)) for name, (labels, mask) in with_labels(truths).items()}
    unlabelled = {name: truth - labels for name, (labels, truth) in both.items()}
    undrawn = {name: labels - truth for name, (labels, truth) in both.items()}
    numbers: dict[str, Any] = {
        "without_class": sum(look.labels == frozenset() for look in looks.values()),
        "labels": {classes[label]: labelled[label] for label in sorted(labelled)},
        "masks": {classes[label]: drawn[label] for label in sorted(drawn)},
        "class_in_mask_only": sum(map(bool, unlabelled.values())),
        "class_in_labels_only": sum(map(bool, undrawn.values())),
    }
    sizes = sorted(look.size for look in looks.values() if look.size is not None)
    if sizes:
        for key, (height, width) in (
            ("smallest", min(sizes, key=np.prod)),
            ("largest", max(sizes, key=np.prod)),
        ):
            numbers[key] = f"{width} x {height}"
        ends = [end(sizes, key=key) for key in (itemgetter(0), itemgetter(1)) for end in (min, max)]
        numbers["sizes"] = [list(size) for size in dict.fromkeys(ends)]

    def words(labels) -> str:
        return some([classes[label] for label in sorted(labels)])

    if use.labels and looks and not labelled:
        errors.append(
            f"split {split}: the labels of dataset.labels give no image a class, not even with "
            "dataset.negatives; correct the labels or how they are written"
        )

    def strangers(of: str, pairs: Mapping[str, tuple[frozenset, frozenset]]) -> list[str]:
        """The error of masks (labels and classes of each) of which most share no class."""
        full = {name: pair for name, pair in pairs.items() if all(pair)}
        apart = [name for name, (labels, mask) in full.items() if not labels & mask]
        if 2 * len(apart) <= len(full):
            return []
        labels, mask = full[apart[0]]
        return [
            f"split {split}: in {len(apart)} of {len(full)} images the mask {of}holds no class of "
            f"the labels ({apart[0]}: {words(mask)} in the mask, {words(labels)} in the labels); "
            f"class number n of {dataset.settings['vocabulary']} must have the value n"
        ]

    def repainted(of: str, folder: str) -> list[str]:
        """The error of masks whose palettes give one colour to several classes."""
        masks = ((name, look.colours.get(folder, {})) for name, look in looks.items())
        found = contradiction(masks)
        return [] if found is None else [f"split {split}: the palettes of the masks {of}{found}"]

    if drawn:
        errors += repainted("", "") or background("", truths) or strangers("", both)
    elif any(labels for labels, _ in both.values()):
        errors.append(
            f"split {split}: no mask holds a class, only 0 and {IGNORE}; a mask must hold 1 to "
            f"{len(classes)} where its image shows the classes of {dataset.settings['vocabulary']}"
        )
    for folder in dict.fromkeys(str(folder) for folder, _ in use.imports):
        masks = {
            name: mask
            for name, look in looks.items()
            if (mask := look.imported.get(folder)) is not None
        }
        imported = {
            name: (labels, _classes(mask)) for name, (labels, mask) in with_labels(masks).items()
        }
        empty = sum(set(mask) == {IGNORE} for mask in masks.values())
        if masks and empty == len(masks):
            errors.append(
                f"split {split}: every mask of {folder} is {IGNORE} (ignored) all over, which "
                "leaves no pixel to train on; correct the masks, or how they were written"
            )
        elif masks and labelled and not any(map(_classes, masks.values())):
            errors.append(
                f"split {split}: no mask of {folder} holds a class, only 0 and {IGNORE}; a mask "
                f"must hold 1 to {len(classes)} where its image shows a class"
            )
        elif lines := (
            repainted(f"of {folder} ", folder)
            or background(f"of {folder} ", masks)
            or strangers(f"of {folder} ", imported)
        ):
            errors += lines
        elif empty:
            warnings.append(
                f"split {split}: {empty} of {len(masks)} masks of {folder} are {IGNORE} (ignored) "
                "all over; no training learns from them"
            )
    for found, text in (
        (unlabelled, "a class in the mask that is missing from the labels"),
        (undrawn, "a class in the labels that is missing from the mask"),
    ):
        names = [name for name, labels in found.items() if labels]
        if names:
            warnings.append(
                f"split {split}: {len(names)} of {len(both)} images have {text} ({names[0]}: "
                f"{words(found[names[0]])})"
            )
    for folder in dict.fromkeys(map(str, use.regions)):
        if without := [name for name, look in looks.items() if folder in look.without_regions]:
            warnings.append(
                f"split {split}: {len(without)} of {len(looks)} files of {folder} hold no region "
                f"({some(without)}), so that none votes there"
            )
    damaged = {name: look.damage for name, look in looks.items() if look.damage is not None}
    for name, damage in [*damaged.items()][:1]:
        warnings.append(
            f"split {split}: {len(damaged)} of {len(looks)} JPEGs are damaged ({name}: {damage}); "
            "what could be read of them is used as it is, so replace them"
        )
    others = {name: look.other for name, look in looks.items() if look.other is not None}
    for name, other in [*others.items()][:1]:
        warnings.append(
            f"split {split}: {len(others)} of {len(looks)} XMLs name another image as their "
            f"filename ({name}.xml: {other}), so their labels may be another image's"
        )
    alone = sum(len(look.labels or ()) == 1 for look in looks.values())
    if use.bare and alone:
        warnings.append(
            f"split {split}: {alone} of {len(looks)} images have one class, and the texts "
            f"{some(list(use.bare))} have no background words to compare it with: its map is the "
            "same all over; name a list as background, or target: logit"
        )
    pairs = [look.surest for look in looks.values() if look.surest is not None]
    surest, of_classes = zip(*pairs, strict=True) if pairs else ((), ())
    if surest and max(of_classes) < use.mu <= max(surest):
        warnings.append(
            f"split {split}: no imported confidence of a class is above {max(of_classes):.3f}, so "
            f"that background alone counts in a training with mu: {use.mu:g}; lower mu, or correct "
            "the confidences"
        )
    if surest and max(surest) < use.mu:
        errors.append(
            f"split {split}: no imported confidence is above {max(surest):.3f}, so that no pixel "
            f"counts in a training with mu: {use.mu:g}; lower mu, or correct the confidences"
        )
    if surest and max(surest) < 0.5:
        warnings.append(
            f"split {split}: no imported confidence is above {max(surest):.3f}; a confidence of 1 "
            "must be stored as white (255, or 65535 of 16 bits)"
        )
    if drawn and (missing := set(range(len(classes))) - set(drawn)):
        warnings.append(
            f"split {split}: no ground truth of {words(missing)}; the mIoU leaves them out"
        )
    if use.labels and labelled and (missing := set(range(len(classes))) - set(labelled)):
        warnings.append(f"split {split}: no image has {words(missing)}")
    if use.masks and 0 < len(looks) < FEW:
        warnings.append(
            f"split {split}: {len(looks)} images; intervals over so few images mean little"
        )
    return numbers, errors, warnings
