"""A file server with faults to order, and small archives laid out like the real ones."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

VOC_TRAIN, VOC_VAL = ["2007_000001", "2007_000002"], ["2007_000003"]
SBD_TRAIN, SBD_VAL = ["2007_000002", "2007_000003", "2008_000010"], ["2008_000011"]
TRAIN_AUG = ["2007_000001", "2007_000002", "2008_000010", "2008_000011"]
WIDTH, HEIGHT = 32, 24
CAT, DOG = 8, 12  # mask values in VOC


class Server:
    """Serves a folder on 127.0.0.1; every address is `server.url/<file>`.

    Attributes:
        lengths: say how long an answer is.
        ranges: answer Range requests.
        cut_after: close the connection after so many bytes of every answer.
        pause: seconds to wait after every `step` bytes.
        status: file name -> HTTP status that it gets instead of its bytes.
        requests: (file name, Range header or None), in order.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.lengths, self.ranges, self.cut_after, self.pause, self.step = (
            True,
            True,
            None,
            0.0,
            1 << 16,
        )
        self.status: dict[str, int] = {}
        self.requests: list[tuple[str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            def log_message(self, *arguments):
                pass

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.rpartition("/")[2]
        asked = request.headers.get("Range")
        self.requests.append((name, asked))
        if name in self.status or not (self.folder / name).is_file():
            request.send_error(self.status.get(name, 404))
            return
        content = (self.folder / name).read_bytes()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if asked and self.ranges and request.headers.get("If-Range", tag) == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        body = content[start:]
        if self.lengths:
            request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", tag)
        request.end_headers()
        try:
            for offset in range(0, len(body), self.step):
                end = min(offset + self.step, self.cut_after or len(body))
                request.wfile.write(body[offset:end])
                if end == self.cut_after:
                    break
                time.sleep(self.pause)
        except OSError:
            pass  # the client was killed


def jpeg(seed: int) -> bytes:
    """A small photograph of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def png(mask: np.ndarray) -> bytes:
    """A grey PNG of a mask."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def xml(*classes: str, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """An annotation with one object a class; the first has a part with a name of its own."""
    objects = "".join(
        f"<object><name>{name}</name><part><name>head</name></part></object>" for name in classes
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>".encode()


def box(value: int, inner: int = 0) -> np.ndarray:
    """A mask with one rectangle."""
    mask = np.full((HEIGHT, WIDTH), inner, dtype=np.uint8)
    mask[4:12, 6:20] = value
    return mask


def mat(mask: np.ndarray) -> bytes:
    """An SBD mask file."""
    file = io.BytesIO()
    scipy.io.savemat(
        file,
        {"GTcls": {"Boundaries": np.zeros(3), "Segmentation": mask, "CategoriesPresent": [1]}},
        do_compression=True,
    )
    return file.getvalue()


def write_archive(path: Path, files: dict[str, bytes]) -> str:
    """Write a tar, tgz, zip (by the suffix) or folder (without one); return its md5, or ''."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix in (".tar", ".tgz"):
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return ""
    return hashlib.md5(path.read_bytes()).hexdigest()


def voc_files() -> dict[str, bytes]:
    """VOC 2012 in small: two training and one validation image, SBD's two, and one unused."""
    root = "VOCdevkit/VOC2012"
    files = {}
    for seed, name in enumerate([*VOC_TRAIN, *VOC_VAL, "2008_000010", "2008_000011", "unused"]):
        files[f"{root}/Annotations/{name}.xml"] = xml("cat", "dog", "cat")
        files[f"{root}/JPEGImages/{name}.jpg"] = jpeg(seed)
    for name in (*VOC_TRAIN, *VOC_VAL):
        files[f"{root}/SegmentationClass/{name}.png"] = png(box(CAT))
        files[f"{root}/SegmentationObject/{name}.png"] = png(box(1))
    lists = f"{root}/ImageSets/Segmentation"
    files[f"{lists}/train.txt"] = "\n".join(VOC_TRAIN).encode()
    files[f"{lists}/val.txt"] = "\n".join(VOC_VAL).encode()
    return files


def sbd_files() -> dict[str, bytes]:
    """SBD in small: it overlaps with VOC's train and val."""
    root = "benchmark_RELEASE/dataset"
    files = {f"{root}/cls/{name}.mat": mat(box(DOG)) for name in (*SBD_TRAIN, *SBD_VAL)}
    files[f"{root}/inst/{SBD_VAL[0]}.mat"] = mat(box(1))
    files[f"{root}/img/{SBD_VAL[0]}.jpg"] = jpeg(9)
    files[f"{root}/train.txt"] = "\n".join(SBD_TRAIN).encode()
    files[f"{root}/val.txt"] = "\n".join(SBD_VAL).encode()
    return files


COCO_CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]


def coco_files() -> dict[str, dict[str, bytes]]:
    """COCO 2014 in small: source name -> files. The last image of a split has no object."""
    files: dict[str, dict[str, bytes]] = {"coco2014-annotations": {}}
    for split, numbers in (("train", [9, 25, 30, 64]), ("val", [42, 73])):
        images = [
            {
                "id": number,
                "file_name": f"COCO_{split}2014_{number:012d}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
            }
            for number in numbers
        ]
        annotations = [
            coco_object(3 * number + i, number, category, [square(2 + i, 2 + i, 16 - 4 * i)])
            for number in numbers[:-1]
            for i, category in enumerate([18, 1])
        ]
        files["coco2014-annotations"][f"annotations/instances_{split}2014.json"] = json.dumps(
            {"images": images, "annotations": annotations, "categories": COCO_CATEGORIES}
        ).encode()
        files[f"coco2014-{split}"] = {
            f"{split}2014/{image['file_name']}": jpeg(image["id"]) for image in images
        }
    return files


def coco_object(number: int, image: int, category: int, region, crowd: int = 0) -> dict:
    """One annotation of an instances file."""
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": region,
        "iscrowd": crowd,
        "area": 1.0,
    }


def square(x: int, y: int, side: int) -> list[float]:
    """The polygon around the pixels x..x+side-1, y..y+side-1."""
    return [float(v) for v in (x, y, x + side, y, x + side, y + side, x, y + side)]
