"""Plain folders for other programs, from the archives and shards of a run.

What is written here is read by nothing in this package but an import of masks.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from clip_wsss.core.archives import MASKS, Archive, Archives
from clip_wsss.core.confidence import DECIMAL_EDGES, check_mu, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_bytes
from clip_wsss.core.images import encode_grey, write_label
from clip_wsss.core.maps import read_maps
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.report.pictures import heat_overlay

if TYPE_CHECKING:
    from clip_wsss.data.datasets import Dataset

# Grey value of each code: 255 times the edge, rounded up, so that an import of the picture finds
# the same code again below 0.99; above it, 256 grey values cannot tell all codes apart.
GREY = np.ceil(np.round(DECIMAL_EDGES * 255, 6)).astype(np.uint8)


def export_masks(archives: Sequence[Path], out: Path, mu: float | None = None) -> None:
    """Write the images of archives as PNGs.

    Args:
        archives: pseudo masks or predictions.
        out: gets labels/<id>.png (VOC palette) and, of pseudo masks, confidence/<id>.png (grey,
            255 for 1), and with a mu labels-mu<mu>/<id>.png: the labels with 255 where the
            confidence is below mu.
        mu: an edge of the confidences' codes, or None.

    Raises:
        InputError: an archive cannot be used, mu is not an edge, or predictions have no confidence
            to compare it with.
    """
    if mu is not None:
        check_mu(mu)
    masks = Archives(archives)
    for name, archive in tqdm(masks.items(), desc="export", unit="image", disable=None):
        write_bytes(Path(out) / "labels" / f"{name}.png", archive.label_png(name))
        if archive.kind == MASKS or mu is not None:
            _export_confidence(archive, name, Path(out), mu)


def _export_confidence(archive: Archive, name: str, out: Path, mu: float | None) -> None:
    codes = archive.codes(name)
    write_bytes(out / "confidence" / f"{name}.png", encode_grey(GREY[codes]))
    if mu is not None:
        label = np.where(codes >= encode(np.float32(mu)), archive.label(name), IGNORE)
        write_label(out / f"labels-mu{mu:g}" / f"{name}.png", label)


def export_maps(dataset: Dataset, shards: Sequence[Path], out: Path) -> None:
    """Write the maps of shards as arrays and as pictures.

    Args:
        dataset: gives the images.
        shards: of maps, see `clip_wsss.core.maps`.
        out: gets maps/<id>.npy, (K, gh, gw) float32 in [0, 1] at grid resolution, keys/<id>.npy,
            (K,) int64, the 0-based classes of the maps, and overlays/<id>.jpg, the largest map
            as heat over the image. The arrays load with `numpy.load` as it is: no pickles.

    Raises:
        InputError: a shard cannot be read, or an image is missing or has another size now.
    """
    for shard in shards:
        for image in tqdm(read_maps(shard), desc="export", unit="image", disable=None):
            rgb = dataset.image(image.id)
            if rgb.shape[:2] != image.size:
                raise InputError(
                    f"{shard}: {image.id} was {image.size} when its map was made and is "
                    f"{rgb.shape[:2]} now; make the maps again"
                )
            write_bytes(Path(out) / "maps" / f"{image.id}.npy", _npy(image.maps))
            write_bytes(Path(out) / "keys" / f"{image.id}.npy", _npy(image.keys))
            picture = io.BytesIO()
            overlay = Image.fromarray(heat_overlay(rgb, image.maps))
            overlay.save(picture, format="JPEG", quality=90)
            write_bytes(Path(out) / "overlays" / f"{image.id}.jpg", picture.getvalue())


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
