"""Pseudo masks of pictures with image-level labels, as PNGs.

A mask that is there stays, as long as the picture, its labels and the settings are the same; so the
same command goes on where it was stopped. What someone changed in a mask stays, too, and is said. A
bad picture costs that picture alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clip_wsss.api import ORIENTATIONS, Segmenter, ZeroMapWarning
from clip_wsss.core.arguments import at_least, output
from clip_wsss.core.confidence import encode
from clip_wsss.core.csvs import guarded, unguarded
from clip_wsss.core.errors import InputError, failed, stopped
from clip_wsss.core.files import (
    alone,
    check_own,
    make_output,
    read_text,
    sha256,
    write_json,
    write_rows,
)
from clip_wsss.core.images import encode_grey, encode_label, jpeg_damage, read_rgb, write_bytes
from clip_wsss.core.spelling import unknown
from clip_wsss.data.annotations import read_labels
from clip_wsss.data.check import shortened
from clip_wsss.data.datasets import some
from clip_wsss.data.lists import check_id, image_id, is_picture
from clip_wsss.export import GREY

FOLDERS = ("labels", "confidence")
# Of images.csv: the picture's digest, and those of its two PNGs.
HEAD = ("image", "labels", "sha256", *(f"{folder}_sha256" for folder in FOLDERS))


@dataclass(frozen=True)
class Picture:
    """A picture with its labels.

    Attributes:
        name: of its files in the folders of masks.
        path: of the picture.
        labels: class names.
    """

    name: str
    path: Path
    labels: tuple[str, ...] = ()

    @property
    def line(self) -> tuple[str, str, str]:
        """What its line of images.csv begins with: all that decides its mask but the settings."""
        return self.name, ";".join(self.labels), _digest(self.path)


def segment_pictures(
    segmenter: Segmenter, pictures: Sequence[Picture], out: Path, overwrite: bool = False
) -> tuple[int, int, dict[str, str]]:
    """Write the masks of pictures.

    Args:
        segmenter: makes them.
        pictures: no two of one name.
        out: gets labels/<name>.png (VOC palette), confidence/<name>.png (grey, 255 for 1),
            classes.csv (value, class), settings.json, and images.csv (image, labels, sha256 of the
            picture and of its two PNGs), a line as soon as a picture is done.
        overwrite: make them all again, whatever the settings of those that are there.

    Returns:
        How many were made, how many were kept (also those that were changed since, with a warning),
        and path -> what is wrong with a bad picture.

    Raises:
        InputError: `out` holds masks of other settings or files of another program in the place of
            these, or the weights cannot be used.
    """
    settings = json.loads(json.dumps(segmenter.settings))
    bad = _bad_names(pictures)
    pictures = [one for one in pictures if str(one.path) not in bad]
    lines = {one.name: one.line for one in pictures}
    done = {} if overwrite else _done(out, settings, lines)
    for folder in FOLDERS:
        make_output(out / folder)
    kept = {one for one in lines if done.get(one) == (*lines[one], *_digests(out, one))}
    same = (one for one in lines if one not in kept and done.get(one, ())[:3] == lines[one])
    if edited := [one for one in same if _is_whole(out, one)]:
        print(
            f"warning: {out}: changed since they were made, and kept: {some(edited)}; delete such "
            "a PNG to have it made again",
            file=sys.stderr,
        )
        kept.update(edited)
    left = [one for one in pictures if one.name not in kept]
    names = [one.name for one in left]
    if changed := [one for one in names if done.get(one, lines[one])[:3] != lines[one]]:
        print(f"{out}: other labels or pixels, made again: {some(changed)}", file=sys.stderr)
    if gone := [one for one in done if one not in lines]:
        print(
            f"{out}: {len(gone)} kept of pictures that are not given: {some(gone)}", file=sys.stderr
        )
    classes = enumerate(map(guarded, ("background", *segmenter.vocabulary.classes)))
    others = [line for name, line in done.items() if name in kept or name not in lines]
    # First, since without it the other files would be taken for those of another program.
    write_rows(out / "images.csv", [HEAD, *(tuple(map(guarded, line)) for line in others)])
    write_json(out / "settings.json", settings)
    write_rows(out / "classes.csv", [("value", "class"), *classes])
    made, zero = 0, []
    outcomes = segmenter.outcomes([(one.path, one.labels, one.name) for one in left])
    progress = tqdm(outcomes, total=len(left), desc="masks", unit="image", disable=None)
    for one, found in zip(left, progress, strict=True):
        if isinstance(found, InputError):
            bad[str(one.path)] = str(found)
            continue
        made += 1
        if found.without_map:
            zero.append(one.name)
        codes = GREY[encode(found.confidence)]
        for folder, data in zip(
            FOLDERS, (encode_label(found.label), encode_grey(codes)), strict=True
        ):
            write_bytes(out / folder / f"{one.name}.png", data)
        with (out / "images.csv").open("a", encoding="utf-8", newline="") as file:
            line = *lines[one.name], *_digests(out, one.name)
            csv.writer(file, lineterminator="\n").writerow(map(guarded, line))
    if zero:
        print(
            f"warning: {out}: in {len(zero)} of {made} pictures ({zero[0]}) a map is 0 all over, "
            "so that the mask lacks its class; look at the weights and at the words",
            file=sys.stderr,
        )
    return made, len(kept), bad


def _bad_names(pictures: Sequence[Picture]) -> dict[str, str]:
    """Path -> what is wrong, of pictures whose names no CSV can hold."""
    bad = {}
    for one in pictures:
        try:
            check_id(one.name, str(one.path.parent))
        except InputError as error:
            bad[str(one.path)] = str(error)
    return bad


def _done(out: Path, settings: dict, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The lines of images.csv by name; none where nothing was made.

    Raises:
        InputError: the folder holds masks of other settings, or files that would be replaced though
            this command did not make them.
    """
    masks = (out / folder / f"{name}.png" for folder in FOLDERS for name in names)
    others = (out / "settings.json", out / "classes.csv", *masks)
    if not check_own(out, "images.csv", f"{','.join(HEAD)}\n", others):
        return {}
    # Of what was stopped while it was written the last line may be half there.
    whole = read_text(out / "images.csv", "missing").rpartition("\n")[0]
    rows = list(csv.reader(whole.split("\n")[1:]))
    if rows and _read_settings(out / "settings.json") != settings:
        raise InputError(
            f"{out}: holds masks of other settings (settings.json); give another --out, or make "
            "them again with --overwrite"
        )
    lines = (tuple(map(unguarded, row)) for row in rows if row)
    return {line[0]: line for line in lines}


def _read_settings(path: Path) -> Any:
    try:
        return json.loads(read_text(path, "missing; give --overwrite"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); give --overwrite") from None


def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else ""


def _digests(out: Path, name: str) -> tuple[str, ...]:
    return tuple(_digest(out / folder / f"{name}.png") for folder in FOLDERS)


def _is_whole(out: Path, name: str) -> bool:
    """Whether both PNGs of a picture are there and hold pixels."""
    try:
        for folder in FOLDERS:
            read_rgb(out / folder / f"{name}.png", stored=True)
    except InputError:
        return False
    return True


def find_pictures(paths: Sequence[Path], by_folder: bool = False) -> list[Picture]:
    """Pictures of files and folders, without labels.

    Args:
        paths: files, and folders whose pictures are taken.
        by_folder: the folders hold a folder for each class; the pictures lie there, and have its
            name before theirs and as their label.

    Raises:
        InputError: there is no such file or folder, no picture, or two of one name.
    """
    found: dict[str, Picture] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder")
        files = [path] if path.is_file() else sorted(path.glob("*/*" if by_folder else "*"))
        for file in files:
            if path.is_dir() and not is_picture(file.name):
                continue
            name = image_id(file.name)
            labels = (file.parent.name,) if by_folder else ()
            name = f"{file.parent.name}/{name}" if by_folder else name
            if name in found:
                raise InputError(f"{file}: has the name of {found[name].path}; rename one")
            found[name] = Picture(name, file, labels)
    if not found:
        what = "a folder for each class, with pictures" if by_folder else "pictures, not below it"
        raise InputError(f"{', '.join(map(str, paths))}: must hold {what}")
    return list(found.values())


def _warn_of_others(
    paths: Sequence[Path], pictures: Sequence[Picture], by_folder: bool, out: Path
) -> None:
    """Say which pictures below the folders are not taken; those in `out` are masks."""
    taken, own = {one.path for one in pictures}, out.resolve()
    where = "not in a folder of a class directly below it" if by_folder else "in folders below it"
    remedy = "move them there" if by_folder else "name these folders, too"
    for path in paths:
        others = [
            str(file)
            for file in (one.relative_to(path) for one in sorted(path.rglob("*")))
            if is_picture(file.name)
            and path / file not in taken
            and own not in (path.resolve() / file).parents
        ]
        if others:
            warnings.warn(
                f"{path}: {len(others)} not taken, {where}: {some(others)}; {remedy}",
                stacklevel=2,
            )


def _warn_of_damage(pictures: Sequence[Picture]) -> None:
    """Say of which JPEGs the decoder complains, though it reads them."""
    for one in pictures:
        with suppress(InputError):  # which is said when it is read
            if damage := jpeg_damage(one.path):
                line = f"{one.path}: damaged ({damage}); what can be read of it is used as it is"
                warnings.warn(line, stacklevel=2)


def labelled(
    pictures: Sequence[Picture], labels: str | None, table: Path | None, classes: Sequence[str]
) -> list[Picture]:
    """The pictures with their labels.

    Args:
        pictures: with labels where neither of the next two is given.
        labels: class names with commas between them, of all pictures.
        table: of labels by picture (docs/datasets.md); one without a row has no labels.
        classes: that there are.

    Raises:
        InputError: a table that cannot be used, or an unknown class that is not of a table.
    """
    if table is not None:
        rows = read_labels(table, classes)
        there = {image_id(one.path.name) for one in pictures}
        if others := [name for name in rows if name not in there]:
            warnings.warn(
                f"{table}: {len(others)} of {len(rows)} rows are of pictures that are not given: "
                f"{some(others)}",
                stacklevel=2,
            )
        return [
            Picture(one.name, one.path, tuple(rows.get(image_id(one.path.name), ())))
            for one in pictures
        ]
    if labels is not None:
        said = tuple(filter(None, map(str.strip, labels.split(","))))
        if not said:
            raise InputError("--labels: names no class; name those that the pictures show")
        pictures = [Picture(one.name, one.path, said) for one in pictures]
    for label in dict.fromkeys(label for one in pictures for label in one.labels):
        if label not in classes:
            raise InputError(
                f"labels: {unknown('class', label, classes)} (--classes takes words of your own)"
            )
    return list(pictures)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a picture was bad."""
    parser = argparse.ArgumentParser(prog="clip-wsss masks", description=__doc__)
    add = parser.add_argument
    add("pictures", nargs="+", type=Path, help="files, or folders of them")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", help="of all pictures: dog,cat")
    labels.add_argument("--csv", type=Path, help="labels by picture, with columns image and labels")
    labels.add_argument("--by-folder", action="store_true", help="the folder's name is the label")
    add("--out", type=output, default=Path("masks"), help="(%(default)s)")
    add("--preset", default="clip-es", help="[config:]row[,group.key=value…] (%(default)s)")
    add("--classes", help="words of your own, or a vocabulary: voc12, coco14, a file")
    add("--weights", default="auto", help="auto (OpenAI's), a file, a tag of open_clip, or demo")
    add("--architecture", help="of other weights: a name in open_clip or a model config")
    add("--orientation", default="refuse", choices=ORIENTATIONS, help="of turned photographs")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--workers", type=at_least(1), default=1, help="processes of the CRF (%(default)s)")
    add("--threads", type=at_least(1), help="of torch (what the preset's config says)")
    add("--overwrite", action="store_true", help="make masks again that exist already")
    options = parser.parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    warnings.simplefilter("ignore", ZeroMapWarning)  # said once for all pictures
    try:
        pictures = find_pictures(options.pictures, options.by_folder)
        segmenter = Segmenter(
            options.preset,
            classes=_classes(options.classes),
            weights=options.weights,
            architecture=options.architecture,
            orientation=options.orientation,
            device=options.device,
            workers=options.workers,
        )
        classes = segmenter.vocabulary.classes
        pictures = labelled(pictures, options.labels, options.csv, classes)
        make_output(options.out)
        _warn_of_others(options.pictures, pictures, options.by_folder, options.out)
        _warn_of_damage(pictures)
        import torch

        torch.set_num_threads(options.threads or segmenter.preset.config.compute.threads)
        with alone(options.out):
            made, kept, bad = segment_pictures(segmenter, pictures, options.out, options.overwrite)
    except InputError as error:
        return failed(error)
    except OSError as error:
        return stopped(error, options.out)
    for line in shortened(list(bad.values())):
        print(f"error: {line}", file=sys.stderr)
    print(f"{options.out}: {made} made, {kept} kept, {len(bad)} bad")
    return 1 if bad else 0


def _classes(text: str | None) -> str | list[str] | None:
    """A vocabulary by its name or file, or words with commas between them."""
    if text is None or text in ("voc12", "coco14") or text.endswith((".yaml", ".yml")):
        return text
    return [word.strip() for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
