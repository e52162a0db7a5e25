"""The archive that VOC's evaluation server takes."""

import gzip
import io
import tarfile
from pathlib import Path

from tqdm import tqdm

from clip_wsss.core.archives import Archive
from clip_wsss.core.files import atomic_path

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"  # comp6: any training data


def write_submission(ids: list[str], predictions: str | Path, out: str | Path) -> None:
    """Pack predictions in the server's folder layout; the same PNGs give the same bytes.

    Args:
        ids: images of the test set.
        predictions: the archive of them, see `clip_wsss.core.archives`.
        out: the .tgz that is written.

    Raises:
        InputError: a prediction is missing or damaged.
    """
    source, out = Archive(predictions), Path(out)
    labels = {name: source.label_png(name) for name in sorted(ids)}
    with (
        atomic_path(out) as part,
        part.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in tqdm(labels.items(), desc="packing", unit="image", disable=None):
            entry = tarfile.TarInfo(f"{FOLDER}/{name}.png")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
