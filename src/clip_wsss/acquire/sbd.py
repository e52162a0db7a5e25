"""SBD's masks: MATLAB files to palette PNGs."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io
import scipy.sparse
from tqdm import tqdm

from clip_wsss.acquire.archives import in_folder, listed, open_members
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import write_label
from clip_wsss.core.processes import end_with_parent, process_context

VALUES = np.arange(21)  # values of a mask, the background first
SECONDS = 10.0  # of the processor for a mask, which takes milliseconds


def read_mask(content: bytes) -> np.ndarray:
    """GTcls.Segmentation of a MATLAB file, (H, W) uint8: 0 background, 1..20 classes, no border.

    It may be of any numeric type, or sparse.

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
    mask = np.asarray(mask.toarray() if scipy.sparse.issparse(mask) else mask)
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise ValueError(f"GTcls.Segmentation must be a matrix of numbers; got {mask.dtype}")
    if not np.isin(mask, VALUES).all():
        raise ValueError("GTcls.Segmentation must hold the numbers 0 to 20 only")
    return mask.astype(np.uint8)


def _read(content: bytes, seconds: float) -> np.ndarray:
    """`read_mask`; what takes longer, as any number of objects does, is ended by the system."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # in compiled code, too
    try:
        return read_mask(content)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def _reader() -> Iterator[Callable[[bytes], np.ndarray]]:
    """`read_mask` in a process of its own, which scipy's compiled parser may end or never leave."""

    def read(content: bytes) -> np.ndarray:
        try:
            return pool.submit(_read, content, SECONDS).result()
        except BrokenProcessPool:
            raise ValueError(
                f"reading it ended the process that did, or took more than {SECONDS:g} s"
            ) from None

    with ProcessPoolExecutor(1, process_context(), end_with_parent, (os.getpid(),)) as pool:
        yield read


def convert_masks(source: Path, skip: Iterable[str], folder: Path, reuse: bool) -> list[str]:
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
    with open_members(source) as members, _reader() as read:
        masks = in_folder(members, "cls")
        # The archive has them in benchmark_RELEASE/dataset, torchvision in the folder it is given.
        places = {
            str(item.name.parents[1]) for item in members.values() if item.name.parent.name == "cls"
        }
        if len(places) != 1:
            raise InputError(
                f"{source}: must hold one folder called cls; it holds {len(places)}; name SBD's "
                "archive, or the folder that cls lies in"
            )
        ids = []
        for name in (str(PurePosixPath(*places, f"{split}.txt")) for split in ("train", "val")):
            if name not in members:
                raise InputError(f"{source}: has no {name} beside cls; get the whole archive")
            ids += listed(members[name], source)
        wanted = {name for name in ids if name not in skip}
        if missing := wanted - set(masks):
            raise InputError(f"{source}: has no cls/{min(missing)}.mat; get the whole archive")
        # In the order of the archive, since a tgz can only be read forwards.
        for name, member in tqdm(masks.items(), desc="SBD masks", unit="file", disable=None):
            target = folder / f"{name}.png"
            if name not in wanted or (reuse and target.exists()):
                continue
            try:
                write_label(target, read(member.read()))
            except ValueError as error:
                raise InputError(f"{source}, {member.name}: {error}; replace the file") from None
    return ids
