"""All maps of a shard of images, from one pass.

Torch is imported only by the job. The methods are found by their names, so that the code of one
counts for those maps alone that it makes.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.core.finished import NOTHING, Finished
from clip_wsss.core.maps import ImageMaps, load_npz, write_maps
from clip_wsss.core.memory import TooLargeError, check_memory, fitting, out_of_memory
from clip_wsss.core.progress import log_resumed, over_images
from clip_wsss.data.bad_images import left_out
from clip_wsss.data.datasets import some

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.backward import PassImage, WantedCam
    from clip_wsss.cams.context import MapContext
    from clip_wsss.core.methods import Method
    from clip_wsss.data.datasets import Dataset
    from clip_wsss.models.tower import Clip, Tower

ROOM = "scale it down, leave it out, free memory, or lower max_patches of the model in a config"
READERS = 2  # threads that decode the images of the next batch


@dataclass(frozen=True)
class CamVariant:
    """What makes some initial maps, and the affinities that refine them.

    Attributes:
        texts: name of the texts that are scored.
        cam: settings of a cam: `method` and what that method takes.
        affinities: output name -> settings of an affinity: `method` and what that method takes.
        names: what the texts call all C classes; empty if unknown.
        background_names: the background words.
    """

    texts: str
    cam: dict
    affinities: Mapping[str, dict] = field(default_factory=dict)
    names: Sequence[str] = ()
    background_names: Sequence[str] = ()


def write_pass(
    dataset: Dataset,
    ids: Sequence[str],
    clip: Clip,
    texts: Mapping[str, tuple[Tensor, Tensor]],
    cams: Mapping[str, CamVariant],
    outputs: Mapping[str, Path],
    batch: int = 16,
    towers: Mapping[str, Tower] | None = None,
    kept: Finished = NOTHING,
    readers: int = READERS,
) -> None:
    """Write the maps of a shard of images, those of all variants from one pass over the images.

    Args:
        dataset: gives images, sizes and labels.
        ids: the images of the shard; the files keep their order.
        clip: loaded with the precision, rounding and position embedding of the cams.
        texts: name of texts -> features of the classes (C, E) and the background words (M, E).
        cams: output name -> variant.
        outputs: output name -> npz of `clip_wsss.core.maps`; a map that has none is not written. A
            file's bytes do not depend on the others that are written with it.
        batch: most images in one pass; fewer where their attention would not fit.
        towers: further towers that methods name, by their entries of `models`.
        kept: images that an earlier job finished, and those of this one.
        readers: threads that decode images for a GPU; on a CPU `READERS` are enough.

    Raises:
        InputError: a bad image (which `on_bad_image: skip` of the data set leaves out and lists
            with its reason), or an unknown method.
    """
    found: dict[str, Any] = {}
    skipped: dict[str, Any] = {}
    for id_ in ids:
        if data := kept.get(id_):
            found[id_] = _unpacked(id_, data)
    if found:
        log_resumed("maps", f"{len(found)} finished images")
    results = compute_pass(
        dataset, ids, clip, texts, cams, batch, towers, frozenset(found), readers
    )
    for id_, result in over_images(results, len(ids) - len(found), "maps"):
        if isinstance(result, str):
            skipped[id_] = result
        else:
            found[id_] = result
            kept.add(id_, _packed(result))
    reasons = {id_: skipped[id_] for id_ in ids if id_ in skipped}
    for name, path in outputs.items():
        write_maps(path, [found[id_][name] for id_ in ids if id_ in found], reasons)


def _packed(maps: Mapping[str, ImageMaps]) -> bytes:
    """All maps of an image as an npz."""
    first, data = next(iter(maps.values())), io.BytesIO()
    own: dict[str, Any] = {f"maps {name}": one.maps for name, one in maps.items()}
    np.savez(data, size=first.size, keys=first.keys, scaled_down=first.scaled_down, **own)
    return data.getvalue()


def _unpacked(id_: str, data: bytes) -> dict[str, ImageMaps]:
    with np.load(io.BytesIO(data), allow_pickle=False) as npz:
        height, width = npz["size"].tolist()
        keys, down = npz["keys"], bool(npz["scaled_down"])
        return {
            name.removeprefix("maps "): ImageMaps(id_, (height, width), keys, npz[name], down)
            for name in npz.files
            if name.startswith("maps ")
        }


def read_text_features(path: Path, clip: Clip) -> tuple[Tensor, Tensor]:
    """Features of the classes (C, E) and of the background words (M, E), float32.

    Raises:
        InputError: the file cannot be read, or its features have another width than the model's, or
            hold NaN or infinity.
    """
    import torch

    texts, width = load_npz(path), clip.embedding
    if texts["foreground"].shape[1] != width:
        raise InputError(
            f"{path}: features of width {texts['foreground'].shape[1]}, the model's is {width}; "
            "make the texts with the same model"
        )
    features = torch.from_numpy(texts["foreground"]), torch.from_numpy(texts["background"])
    if not all(part.isfinite().all() for part in features):
        raise InputError(f"{path}: features hold NaN or infinity; make the texts again")
    return features


def compute_pass(
    dataset: Dataset,
    ids: Sequence[str],
    clip: Clip,
    texts: Mapping[str, tuple[Tensor, Tensor]],
    cams: Mapping[str, CamVariant],
    batch: int = 16,
    towers: Mapping[str, Tower] | None = None,
    done: Container[str] = (),
    readers: int = READERS,
) -> Iterator[tuple[str, dict[str, ImageMaps] | str]]:
    """Yield (id, its maps by output name or why it was skipped), grid by grid.

    See `write_pass`. A batch of images that are all `done` is left out; the others stay as they
    are, since the last bits of a map may depend on what is computed beside it.
    """
    import torch

    from clip_wsss.cams.backward import PassImage, WantedCam, fitting_batch, target_of
    from clip_wsss.core.methods import method

    wanted = {}
    for name, cam in cams.items():
        made = method("cam", cam.cam["method"])
        wanted[name] = WantedCam(
            cam.texts,
            _guarded(made, cam.cam),
            target_of(made.read(cam.cam)) if made.name == "gradcam" else None,
            {
                output: _guarded(method("affinity", settings["method"]), settings)
                for output, settings in cam.affinities.items()
            },
            cam.names,
            cam.background_names,
            cam.cam.get("scales", (1.0,)),
            cam.cam.get("flip", False),
        )
    groups: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}
    down = []
    for id_ in ids:
        try:
            size, keys = dataset.size(id_), dataset.labels(id_)
            grid = clip.fitted(size)
            if not keys:  # allowed by `dataset.negatives`: no map, and the mask is background
                empty = ImageMaps(
                    id_, size, np.zeros(0, np.int64), np.zeros((0, *grid), np.float32)
                )
                outputs = (name for cam in cams.values() for name in cam.affinities)
                yield id_, dict.fromkeys((*cams, *outputs), empty)
                continue
            _check_room(clip, id_, size, cams)
            if grid != clip.grid(size):
                down.append(f"{id_} ({size[1]} x {size[0]})")
            groups.setdefault(grid, []).append((id_, keys))
        except InputError as error:
            yield id_, left_out(dataset, error)
    if down:
        logging.warning(
            "scaled down for the maps, since they have more than %d patches (models.max_patches): "
            "%d images: %s", clip.max_patches, len(down), some(down),
        )  # fmt: skip

    def read(item: tuple[str, list[int]]):
        id_, keys = item
        try:
            with fitting(f"{id_}: the image", ROOM):
                rgb = dataset.image(id_)
                return id_, keys, rgb, clip.preprocess(rgb)
        except InputError as error:
            return id_, keys, None, error

    parts = []
    for grid, members in sorted(groups.items()):
        step = fitting_batch(clip, grid, batch)
        parts += [members[i : i + step] for i in range(0, len(members), step)]
    parts = [part for part in parts if not all(id_ in done for id_, _ in part)]
    on_cuda = clip.device.type == "cuda"
    readers = max(READERS, readers) if on_cuda else READERS
    with ThreadPoolExecutor(readers) as pool, ThreadPoolExecutor(1) as ahead:

        def load(part: list[tuple[str, list[int]]]):
            found = [*pool.map(read, part)]
            pixels = [own for _, _, rgb, own in found if rgb is not None]
            try:
                batch = torch.stack(pixels) if pixels else None
                if batch is not None and on_cuda:
                    batch = batch.pin_memory()  # it gets there several times as fast
            except Exception as error:
                if not out_of_memory(error):
                    raise
                return found, pixels  # of which `_maps_of` takes fewer at a time
            return found, batch

        pending = [ahead.submit(load, part) for part in parts[:1]]
        for index in range(len(parts)):
            if index + 1 < len(parts):  # decoded while this batch is computed
                pending.append(ahead.submit(load, parts[index + 1]))
            good = []
            found, batched = pending.pop(0).result()
            for id_, keys, rgb, own in found:
                if rgb is None:
                    yield id_, left_out(dataset, own)
                else:
                    good.append(PassImage(id_, rgb, keys))
            if batched is None:
                continue
            for image, maps in _maps_of(clip, good, batched, texts, wanted, towers):
                if isinstance(maps, InputError):
                    yield image.id, left_out(dataset, maps)
                    continue
                classes, size = (
                    np.array(image.keys, dtype=np.int64),
                    (image.rgb.shape[0], image.rgb.shape[1]),
                )
                scaled = clip.fitted(size) != clip.grid(size)
                yield (
                    image.id,
                    {
                        name: ImageMaps(image.id, size, classes, own, scaled)
                        for name, own in maps.items()
                    },
                )


def _maps_of(
    clip: Clip,
    images: Sequence[PassImage],
    batch: Tensor | Sequence[Tensor],
    texts: Mapping[str, tuple[Tensor, Tensor]],
    wanted: Mapping[str, WantedCam],
    towers: Mapping[str, Tower] | None,
) -> Iterator[tuple[PassImage, dict[str, np.ndarray] | InputError]]:
    """Maps of a batch; where memory runs out, of each half, and at last which image it was."""
    import torch

    from clip_wsss.cams.backward import class_maps

    try:
        pixels = batch if isinstance(batch, torch.Tensor) else torch.stack([*batch])
        made = class_maps(clip, pixels, images, texts, wanted, towers)
        found = [{name: own.cpu().numpy() for name, own in maps.items()} for maps in made]
    except Exception as error:
        if not out_of_memory(error):
            raise
        found = []
    if found:
        yield from zip(images, found, strict=True)
        return
    if clip.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(batch) == 1:
        size = images[0].rgb.shape[:2]
        yield (
            images[0],
            TooLargeError(f"{_many(clip, images[0].id, size)} does not fit into memory; {ROOM}"),
        )
        return
    logging.warning("%d images together do not fit into memory; each half by itself", len(batch))
    for part in (slice(len(batch) // 2), slice(len(batch) // 2, None)):
        yield from _maps_of(clip, images[part], batch[part], texts, wanted, towers)


def _many(clip: Clip, id_: str, size: Sequence[int]) -> str:
    gh, gw = clip.fitted(size)
    return f"{id_}: {size[1]} x {size[0]} pixels are {gh} x {gw} patches, whose attention"


def _check_room(clip: Clip, id_: str, size: Sequence[int], cams: Mapping[str, CamVariant]) -> None:
    """Refuse an image whose pass would not fit into memory."""
    from clip_wsss.cams.backward import pass_bytes

    affinities = any(cam.affinities for cam in cams.values())
    needed = pass_bytes(clip, clip.fitted(size), affinities)
    check_memory(needed, _many(clip, id_, size), ROOM, clip.device)


def _guarded(made: Method, settings: dict) -> Callable[[MapContext], Tensor]:
    """A method with its settings; a message says whose error it is."""
    import torch

    from clip_wsss.core.methods import in_one_line

    bound = made.bound(settings)
    if ":" not in made.name:
        return bound

    def call(context: MapContext) -> Tensor:
        before = _shared(context)
        with in_one_line(f"{made.name}: {context.id}"):
            maps = bound(replace(context, method=made.name))
        for (what, old), (_, new) in zip(before, _shared(context), strict=True):
            if not np.array_equal(old, new):
                raise InputError(
                    f"{made.name}: {context.id}: changes {what}, which other methods see too; "
                    "change a copy"
                )
        if isinstance(maps, torch.Tensor):
            maps = maps.detach()
            if maps.is_complex() or not maps.float().isfinite().all():
                raise InputError(f"{made.name}: {context.id}: a map holds NaN or an infinity")
            maps = maps.float() if not maps.is_floating_point() else maps
        return maps

    return call


def _shared(context: MapContext) -> list[tuple[str, np.ndarray]]:
    """Copies of what methods could change for one another, by name; the rest they get as copies."""
    towers = (context.tower, *context.towers.values())
    parts = [(f"tower.{part}", getattr(one, part)) for one in towers for part in ("mean", "std")]
    return [(name, np.array(value)) for name, value in (("context.image", context.image), *parts)]
