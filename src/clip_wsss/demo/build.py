"""Write the demo's scenes in the layout of the VOC devkit, the same bytes on every machine."""

import random
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from clip_wsss.core.images import voc_palette
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.demo.scenes import CLASSES, WORLDS, Scene, draw_scene
from clip_wsss.demo.sprites import CREDIT

SIDE = 112  # pixels: 14 x 14 patches of the demo CLIP
_RUN_LENGTHS = 3  # zlib's strategy whose output depends on no processor
_NOTICE = f"""The images of this folder are made by clip-wsss from
{CREDIT}
(https://creativecommons.org/licenses/by/4.0/). The graphics were cropped, turned, scaled,
recoloured and put on drawn backgrounds. The images are under the same licence.
"""


def build(root: Path, settings: Mapping) -> None:
    """Write JPEGImages, Annotations, SegmentationClass, ImageSets and a notice of the licence.

    Args:
        root: the folder; what an earlier build left there is replaced.
        settings: `seed`, the numbers of images `train` and `val`, and `world`, 1 if left out.
    """
    root = Path(root)
    for folder, suffix in (
        ("JPEGImages", "jpg"),
        ("Annotations", "xml"),
        ("SegmentationClass", "png"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for stale in (root / folder).glob(f"demo_*.{suffix}"):
            stale.unlink()
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        names = []
        for index in tqdm(range(settings[split]), desc=f"demo {split}", unit="image", disable=None):
            names.append(f"demo_{split}_{index + 1:04d}")
            scene = scene_of(split, settings["seed"], index, settings.get("world", 1))
            _write(root, names[-1], scene)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), newline="\n")
    (root / "LICENSE.txt").write_text(_NOTICE, newline="\n")


def scene_of(split: str, seed: int, index: int, world: int = 1) -> Scene:
    """Return one scene of a split; the classes take turns, so that every one is there.

    The generator's key holds the split's name, so the CLIP was trained on other scenes.
    """
    rng = random.Random(f"{split}/{seed}/{index}")
    return draw_scene(rng, SIDE, SIDE, WORLDS[world], first=CLASSES[index % len(CLASSES)])


def with_border(mask: np.ndarray) -> np.ndarray:
    """Return a (H, W) mask with VOC's ignored border, here one pixel wide.

    The border lies outside an object; between two of them, on the one with the lower id.
    """
    labels = np.where(mask == IGNORE, 0, mask)
    padded = np.pad(labels, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.where(np.maximum.reduce(neighbours) > labels, IGNORE, mask).astype(np.uint8)


def _write(root: Path, name: str, scene: Scene) -> None:
    Image.fromarray(scene.image).save(
        root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling="4:4:4"
    )
    mask = Image.fromarray(with_border(scene.mask))
    mask.putpalette(voc_palette().tobytes())
    mask.save(root / "SegmentationClass" / f"{name}.png", compress_type=_RUN_LENGTHS)
    tree = _annotation(name, scene)
    ET.indent(tree, "\t")
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(ET.tostring(tree, "unicode") + "\n", newline="\n")


def _annotation(name: str, scene: Scene) -> ET.Element:
    """Return VOC's annotation: objects from left to right, boxes 1-based with both ends inside."""
    annotation = ET.Element("annotation")
    ET.SubElement(annotation, "folder").text = "demo"
    ET.SubElement(annotation, "filename").text = f"{name}.jpg"
    ET.SubElement(ET.SubElement(annotation, "source"), "image").text = CREDIT
    size = ET.SubElement(annotation, "size")
    height, width = scene.mask.shape
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        ET.SubElement(size, key).text = str(value)
    ET.SubElement(annotation, "segmented").text = "1"
    for found in scene.objects:
        element = ET.SubElement(annotation, "object")
        ET.SubElement(element, "name").text = CLASSES[found.label]
        box = ET.SubElement(element, "bndbox")
        x0, y0, x1, y1 = found.box
        for key, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ET.SubElement(box, key).text = str(value)
    return annotation
