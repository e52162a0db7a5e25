"""Pseudo masks of a shard, from maps, from the ground truth, or from other code's files.

Every source writes an archive of kind masks (`clip_wsss.core.archives`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_wsss.core.archives import MASKS, EncodedImage, encode_image, write_archive
from clip_wsss.core.confidence import EDGES, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.finished import NOTHING, Finished
from clip_wsss.core.images import SMALLER
from clip_wsss.core.maps import ImageMaps, background_scores, read_maps, read_skipped, upsample_maps
from clip_wsss.core.memory import TooLargeError, fitting, out_of_memory
from clip_wsss.core.methods import in_one_line, method
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.progress import log_resumed, over_images
from clip_wsss.data.bad_images import left_out
from clip_wsss.masks.context import MaskContext

if TYPE_CHECKING:
    from clip_wsss.cams.context import MapContext
    from clip_wsss.data.datasets import Dataset

BATCH, AHEAD = 16, 3  # images at once on a GPU, and how many such parts wait and are written
CERTAIN = len(EDGES) - 1  # the code of a confidence of 1


def labels_and_confidence(
    maps: np.ndarray,
    keys: np.ndarray,
    rgb: np.ndarray,
    entry: dict,
    id_: str = "",
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Label and confidence of every pixel of an image.

    Args:
        maps: (K, gh, gw) float32 in [0, 1].
        keys: (K,) 0-based classes; without any the image is background at a confidence of 1.
        rgb: (H, W, 3) uint8.
        entry: of the group `masks`: refinement, background_power, scores (float16 if it says
            nothing), and settings under the refinement's name.
        id_: of the image.
        device: torch's, for refinements that use it.

    Returns:
        (H, W) uint8, 0 background, key + 1 for a class, and (H, W) float32 in [0, 1]: the
        largest probability, or without a refinement the largest of [background, maps].
    """
    context = mask_context(maps, keys, rgb, entry, id_, device)
    return decided(refined_by(entry, context), context, entry)


def mask_context(
    maps: np.ndarray,
    keys: np.ndarray,
    rgb: np.ndarray,
    entry: dict,
    id_: str,
    device: str = "cpu",
    names: Sequence[str] = (),
    background_names: Sequence[str] = (),
    towers: Callable[[MaskContext, str | None], MapContext] | None = None,
) -> MaskContext:
    """What a mask refinement gets of an image; see `labels_and_confidence`, and `MaskContext`.

    An image without any class has a background of 1 alone, which nothing refines. The names are
    those of all C classes, or none.
    """
    dtype = np.float32 if entry.get("scores") == "float32" else np.float16
    scores = np.ones((1, *rgb.shape[:2]), dtype)
    if len(keys):
        full = upsample_maps(maps, rgb.shape[:2], dtype)
        scores = np.concatenate([background_scores(full, entry["background_power"])[None], full])
    own = [names[key] for key in keys] if names else ()
    whole = [int(key) for key in keys]
    return MaskContext(scores, rgb, whole, id_, maps, device, own, background_names, towers)


def refined_by(entry: dict, context: MaskContext) -> np.ndarray:
    """The scores (1 + K, H, W) after the mask refinement of an entry of `masks` or `inference`."""
    if not context.keys:
        return context.scores.astype(np.float32)
    refine = method("refinement", entry["refinement"])
    with in_one_line(f"refinement {entry['refinement']}: {context.id}"):
        refined = refine.bound(entry.get(refine.short))(context)
    context.made.clear()  # passes are large, and contexts wait until they are written
    return refined


def decided(
    refined: np.ndarray, context: MaskContext, entry: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Label and confidence from refined scores (1 + K, H, W); a tie goes to the background."""
    check_scores(refined, context.scores, entry["refinement"])
    return _values(context)[refined.argmax(axis=0)], refined.max(axis=0)


def _values(context: MaskContext) -> np.ndarray:
    """What a label of each place of the scores is called in a file: (1 + K,) uint8."""
    return np.concatenate([[0], np.asarray(context.keys, int) + 1]).astype(np.uint8)


def check_scores(refined: np.ndarray, scores: np.ndarray, name: str) -> None:
    """Refuse what a mask refinement of your own should not return.

    Raises:
        InputError: another shape or kind of numbers than that of the scores.
    """
    if not isinstance(refined, np.ndarray) or refined.shape != scores.shape:
        got = getattr(refined, "shape", type(refined).__name__)
        raise InputError(f"refinement {name}: must return {scores.shape} scores; got {got}")
    if refined.dtype.kind != "f":
        raise InputError(f"refinement {name}: must return floats; got {refined.dtype}")


def write_masks(
    dataset: Dataset,
    ids: Sequence[str],
    entry: dict,
    maps: Sequence[Path],
    out: Path,
    workers: int,
    device: str = "cpu",
    seen: dict[str, Any] | None = None,
    kept: Finished = NOTHING,
) -> None:
    """Write the masks of a shard from whatever source an entry names.

    Args:
        dataset: images, and the ground truth.
        ids: of the shard.
        entry: of the group `masks`.
        maps: the one shard of maps; none for the other sources.
        out: the archive.
        workers: processes; they change nothing but the time.
        device: cpu, cuda or auto, of a refinement that uses torch.
        seen: what its refinement may ask for (`clip_wsss.runs.plan.Plan.seen`), with the `file` of
            the ranked texts if there is one.
        kept: images that an earlier job made from maps, and those of this one.

    Raises:
        InputError: see the function of each source.
    """
    if entry["source"] == "maps":
        write_shard(dataset, maps[0], entry, out, workers, ids, device, seen, kept)
    elif entry["source"] == "ground-truth":
        write_ground_truth(dataset, ids, out, workers)
    else:
        write_import(dataset, ids, entry["folder"], entry["confidences"], out, workers)


def write_shard(
    dataset: Dataset,
    maps: Path,
    entry: dict,
    out: Path,
    workers: int = 1,
    ids: Sequence[str] | None = None,
    device: str = "cpu",
    seen: dict[str, Any] | None = None,
    kept: Finished = NOTHING,
) -> None:
    """Write the pseudo masks of a shard of maps.

    Args:
        dataset: gives the images.
        maps: the shard, from `clip_wsss.core.maps.write_maps`; images that it skipped are skipped
            here, for the same reason.
        entry: of the group `masks`.
        out: the archive.
        workers: processes; they change nothing but the time.
        ids: the images of the shard, which the maps have to be of; None: any.
        device: as of `write_masks`.
        seen: likewise.
        kept: likewise.

    Raises:
        InputError: maps of other images, an unknown refinement, an image that has changed, or a
            confidence that is not a number.
    """
    refine = method("refinement", entry["refinement"])
    skipped = [EncodedImage(id_, skipped=why) for id_, why in read_skipped(maps).items()]
    images = read_maps(maps)
    found = {image.id for image in images} | {image.id for image in skipped}
    if ids is not None and found != set(ids):
        raise InputError(
            f"{maps}: holds other images than the list, such as {min(found ^ set(ids))}; delete it "
            "and run again"
        )
    # Images without a class have nothing to refine; they and the skipped ones come last.
    bare = map(partial(_background, dataset), [image for image in images if not len(image.keys)])
    images, rest = [image for image in images if len(image.keys)], chain(bare, skipped)
    own, seen = refine.read(entry.get(refine.short)), seen or {}
    function: Any = refine.function
    batch = getattr(function, "batch", None)
    if batch is not None and not function.batches(own):
        batch = None
    said: dict[str, Any] = {key: seen[key] for key in ("names", "background_names") if key in seen}
    asks = "towers" in seen
    if batch is not None or asks:
        from clip_wsss.core.devices import torch_device

        device = str(torch_device(device))
    if asks:
        # By its name: its code counts for those alone that ask (`clip_wsss.runs`).
        towers = import_module("clip_wsss.masks.towers").Towers(json.dumps(seen), device)
        towers.load()
        said["towers"] = towers
    if batch is not None or (asks and device != "cpu"):  # one process for a GPU
        refine_all = partial(_one_by_one, entry) if batch is None else partial(batch, settings=own)
        read = partial(_context, dataset, entry, device=device, **said)
        encode_one = _encoded if batch is None else _encoded_decision
        encoded = partial(_encoded_or_not, encode_one, dataset, entry)
        done = _done(images, kept, BATCH)
        left = [image for image in images if image.id not in done]
        made = _in_batches(read, encoded, left, refine_all, workers)
        _write(out, made, len(left), rest, partial(_merged, images, done, kept))
        return
    done = _done(images, kept)
    left = [image for image in images if image.id not in done]
    make = partial(_from_maps, dataset, entry, **said)
    with parallel_map(min(workers, len(left))) as mapped:
        made = mapped(make, left)
        _write(out, made, len(left), rest, partial(_merged, images, done, kept))


def write_ground_truth(dataset: Dataset, ids: Sequence[str], out: Path, workers: int = 1) -> None:
    """Write the data set's own masks, 255 where they are not sure, with a confidence of 1.

    Args:
        dataset: gives images and ground truth.
        ids: the images.
        out: the archive.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: the data set has no ground truth; a bad image, which `on_bad_image: skip`
            leaves out and lists with its reason.
    """
    if dataset.settings["masks"] is None:
        raise InputError(
            "dataset.masks: null, so masks cannot come from the ground truth; set it to the folder "
            "that has it, or masks.source to maps"
        )
    with parallel_map(min(workers, len(ids))) as mapped:
        made = mapped(partial(_or_skipped, _from_truth, dataset), ids)
        _write(out, made, len(ids))


def write_import(
    dataset: Dataset,
    ids: Sequence[str],
    folder: Path,
    confidence_folder: Path | None,
    out: Path,
    workers: int = 1,
) -> None:
    """Write masks that other code made.

    Args:
        dataset: gives images and classes.
        ids: the images.
        folder: holds <id>.png, palette or grey, of the image's size: 0 background, 1..C classes,
            255 unlabelled.
        confidence_folder: holds <id>.png, grey with 8 or 16 bits, white for 1; None: all are 1.
        out: the archive.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: a file is missing or cannot be used (as of `write_ground_truth`), or a folder is
            missing.
    """
    for one in filter(None, (folder, confidence_folder)):
        _check_folder(one)
    read = partial(_or_skipped, _from_files, dataset, folder, confidence_folder)
    with parallel_map(min(workers, len(ids))) as mapped:
        _write(out, mapped(read, ids), len(ids))


def _check_folder(folder: Path) -> None:
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of masks to import; correct the path")


def _write(
    out: Path,
    made: Iterable[EncodedImage],
    count: int,
    rest: Iterable[EncodedImage] = (),
    merged: Callable[[Iterable[EncodedImage]], Iterable[EncodedImage]] = iter,
) -> None:
    """Write an archive of a count of images that are made, merged with others, and the rest."""
    images = merged(over_images(made, count, f"masks {Path(out).stem}"))
    write_archive(out, MASKS, (image for part in (images, rest) for image in part))


def _done(images: Sequence[ImageMaps], kept: Finished, batch: int = 1) -> frozenset[str]:
    """Images of the batches that an earlier job finished whole."""
    parts = ([image.id for image in images[i : i + batch]] for i in range(0, len(images), batch))
    whole = (part for part in parts if all(kept.get(id_) for id_ in part))
    if done := frozenset(id_ for part in whole for id_ in part):
        log_resumed("masks", f"{len(done)} finished images")
    return done


def _merged(
    images: Sequence[ImageMaps],
    done: Container[str],
    kept: Finished,
    made: Iterable[EncodedImage],
) -> Iterator[EncodedImage]:
    """The images in their order: those that are done, and those that are made, which are kept."""
    news = iter(made)
    for id_ in (image.id for image in images):
        if id_ in done:
            if (data := kept.get(id_)) is None:
                raise InputError(f"{id_}: its image was changed while this job ran; run again")
            size = int.from_bytes(data[:4], "little")
            yield EncodedImage(id_, data[4 : 4 + size], data[4 + size :])
            continue
        image = next(news)
        if not image.skipped:
            assert image.confidence is not None  # these are masks
            head = len(image.label).to_bytes(4, "little")
            kept.add(id_, head + image.label + image.confidence)
        yield image
    next(news, None)  # what follows the last image: the line of the log


def _in_batches(
    read: Callable[[ImageMaps], MaskContext],
    encoded: Callable[[MaskContext, Any], EncodedImage],
    images: Sequence[ImageMaps],
    refine: Callable[[Sequence[MaskContext]], list],
    workers: int,
) -> Iterator[EncodedImage]:
    """Masks by a refinement that one process does: threads read ahead and encode."""
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    with ThreadPoolExecutor(max(2, workers)) as pool:
        waiting = [pool.map(read, part) for part in parts[:AHEAD]]
        done: list[Iterator[EncodedImage]] = []
        for number in range(len(parts)):
            if number + AHEAD < len(parts):
                waiting.append(pool.map(read, parts[number + AHEAD]))
            contexts = list(waiting.pop(0))
            refined = list(_refined_in_parts(refine, contexts))
            done.append(pool.map(encoded, contexts, refined))
            if len(done) > AHEAD:
                yield from done.pop(0)
        for rest in done:
            yield from rest


def _one_by_one(entry: dict, contexts: Sequence[MaskContext]) -> list[np.ndarray]:
    return [refined_by(entry, context) for context in contexts]


def _read(dataset: Dataset, image: ImageMaps) -> np.ndarray:
    """The image, of the size that it had when its maps were made."""
    rgb = dataset.image(image.id)
    if rgb.shape[:2] != image.size:
        raise InputError(
            f"{image.id}: is {rgb.shape[:2]} now and was {image.size} when its CAM was made; "
            "make the CAMs again"
        )
    return rgb


def _background(dataset: Dataset, image: ImageMaps) -> EncodedImage:
    size = _read(dataset, image).shape[:2]
    return encode_image(image.id, np.zeros(size, np.uint8), np.full(size, CERTAIN, np.uint8))


def _context(dataset: Dataset, entry: dict, image: ImageMaps, **said: Any) -> MaskContext:
    rgb = _read(dataset, image)
    return mask_context(image.maps, image.keys, rgb, entry, image.id, **said)


def _from_maps(dataset: Dataset, entry: dict, image: ImageMaps, **said: Any) -> EncodedImage:
    try:
        with fitting(f"{image.id}: its mask", SMALLER):
            context = _context(dataset, entry, image, **said)
            return _encoded(entry, context, refined_by(entry, context))
    except TooLargeError as error:
        return EncodedImage(image.id, skipped=left_out(dataset, error))


def _refined_in_parts(
    refine: Callable[[Sequence[MaskContext]], list], contexts: Sequence[MaskContext]
) -> Iterator[Any]:
    """What `refine` makes of a batch; where memory runs out, of each half, or the error."""
    try:
        yield from refine(contexts)
        return
    except Exception as error:
        if not out_of_memory(error) and not isinstance(error, TooLargeError):
            raise
        if len(contexts) == 1:
            what = f"{contexts[0].id}: its mask does not fit into memory; {SMALLER}"
            yield error if isinstance(error, TooLargeError) else TooLargeError(what)
            return
    for part in (contexts[: len(contexts) // 2], contexts[len(contexts) // 2 :]):
        yield from _refined_in_parts(refine, part)


def _encoded_or_not(
    encode_one: Callable[[dict, MaskContext, Any], EncodedImage],
    dataset: Dataset,
    entry: dict,
    context: MaskContext,
    refined: Any,
) -> EncodedImage:
    if isinstance(refined, TooLargeError):
        return EncodedImage(context.id, skipped=left_out(dataset, refined))
    return encode_one(entry, context, refined)


def _encoded_decision(
    entry: dict, context: MaskContext, refined: tuple[np.ndarray, np.ndarray]
) -> EncodedImage:
    """The file of the place of the label and the code of its confidence."""
    place, codes = refined
    if codes.max() > CERTAIN:
        raise _not_a_number(entry, context)
    return encode_image(context.id, _values(context)[place], codes)


def _encoded(entry: dict, context: MaskContext, refined: np.ndarray) -> EncodedImage:
    label, confidence = decided(refined, context, entry)
    try:
        codes = encode(confidence)
    except ValueError:
        raise _not_a_number(entry, context) from None
    return encode_image(context.id, label, codes)


def _not_a_number(entry: dict, context: MaskContext) -> InputError:
    return InputError(
        f"{context.id}: a confidence is NaN, infinite or below 0 after the refinement "
        f"{entry['refinement']}; change its settings"
    )


def _or_skipped(make: Callable[..., EncodedImage], dataset: Dataset, *args) -> EncodedImage:
    """What `make` makes of the arguments, the last of them an id; for a bad image the reason."""
    try:
        return make(dataset, *args)
    except InputError as error:
        return EncodedImage(args[-1], skipped=left_out(dataset, error))


def _from_truth(dataset: Dataset, id_: str) -> EncodedImage:
    dataset.image(id_)  # whole, else a training would find out
    label = dataset.mask(id_)
    assert label is not None  # the config asks for masks
    return encode_image(id_, label, np.full(label.shape, CERTAIN, np.uint8))


def _from_files(
    dataset: Dataset, folder: Path, confidence_folder: Path | None, id_: str
) -> EncodedImage:
    size = dataset.image(id_).shape[:2]  # whole, else a training would find out
    label, confidence = dataset.imported_mask(id_, folder, confidence_folder)
    codes = np.full(size, CERTAIN, np.uint8) if confidence is None else encode(confidence)
    return encode_image(id_, label, codes)
