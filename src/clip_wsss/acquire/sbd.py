"""SBD's masks: MATLAB files to palette PNGs."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import scipy.io
from tqdm import tqdm

from clip_wsss.acquire.archives import in_folder, one, open_members
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import write_label


def read_mask(content: bytes) -> np.ndarray:
    """GTcls.Segmentation of a MATLAB file, (H, W) uint8: 0 background, 1..20 classes, no border.

    Raises:
        ValueError: the file holds no such thing.
    """
    try:
        variables = scipy.io.loadmat(
            BytesIO(content), squeeze_me=True, struct_as_record=False, variable_names=["GTcls"]
        )
        mask = variables["GTcls"].Segmentation
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise ValueError(f"no GTcls.Segmentation ({error})") from None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError("GTcls.Segmentation is no matrix of uint8")
    return mask


def write_masks(source: Path, skip: Iterable[str], folder: Path, reuse: bool) -> list[str]:
    """Convert the masks of SBD that VOC does not have itself; return the ids of its two splits.

    Args:
        source: the archive or its unpacked folder.
        skip: ids whose mask is not wanted.
        folder: where <id>.png goes.
        reuse: keep PNGs that are there already.

    Raises:
        InputError: a list is missing, or a mask is missing or cannot be read.
    """
    skip = set(skip)
    folder.mkdir(parents=True, exist_ok=True)
    with open_members(source) as members:
        masks = in_folder(members, "cls")
        lists = [one(members, "dataset", f"{name}.txt", source=source) for name in ("train", "val")]
        ids = [name for item in lists for name in item.read().decode().split()]
        wanted = {name for name in ids if name not in skip}
        if missing := wanted - set(masks):
            raise InputError(f"{source}: has no cls/{min(missing)}.mat; get the whole archive")
        # In the order of the archive, since a tgz can only be read forwards.
        for name, member in tqdm(masks.items(), desc="SBD masks", unit="file", disable=None):
            target = folder / f"{name}.png"
            if name not in wanted or (reuse and target.exists()):
                continue
            try:
                write_label(target, read_mask(member.read()))
            except ValueError as error:
                raise InputError(f"{source}, {member.name}: {error}; replace the file") from None
    return ids
