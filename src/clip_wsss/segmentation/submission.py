"""The archive that VOC's evaluation server takes."""

import gzip
import io
import tarfile
from pathlib import Path

from tqdm import tqdm

from clip_wsss.errors import InputError

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"  # comp6: any training data


def write_submission(ids: list[str], folder: str | Path, archive: str | Path) -> None:
    """Pack predictions in the server's folder layout; the same PNGs give the same bytes.

    Args:
        ids: images of the test set.
        folder: holds <id>.png with the VOC palette.
        archive: the .tgz that is written.

    Raises:
        InputError: a prediction is missing.
    """
    for name in ids:
        if not (Path(folder) / f"{name}.png").is_file():
            raise InputError(f"{Path(folder) / name}.png: no prediction; predict the split first")
    archive = Path(archive)
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f".{archive.name}.part")
    with (
        part.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in tqdm(sorted(ids), desc="packing", unit="image", disable=None):
            data = (Path(folder) / f"{name}.png").read_bytes()
            entry = tarfile.TarInfo(f"{FOLDER}/{name}.png")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    part.replace(archive)
