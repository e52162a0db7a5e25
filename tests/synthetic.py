"""A small data set and the files that every stage would write for it, made without any model.

Maps are blurred ground truth with noise, so figures and pictures look like real ones, and all is
drawn from fixed seeds. The tests of the report read it.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from made_results import write_logs
from PIL import Image

from clip_wsss.core.archives import MASKS, PREDICTIONS, encode_image, write_archive
from clip_wsss.core.confidence import encode
from clip_wsss.core.images import write_label
from clip_wsss.core.maps import ImageMaps, upsample_maps, write_maps
from clip_wsss.core.shards import shard_ids
from clip_wsss.data.datasets import Dataset, open_dataset
from clip_wsss.runs.config import load_config
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.nodes import Node
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.settings import Config
from clip_wsss.runs.sidecar import write_sidecar
from clip_wsss.runs.stages import MAP_STAGES, TRAINED
from clip_wsss.runs.table import Run
from clip_wsss.score.metrics import Measurement, measure

REPOSITORY = Path(__file__).resolve().parents[1]
GRID = 8
NOISE = {"photo": 0.75, "sharpest": 0.6, "synonyms": 0.5, "clip-es": 0.55}  # of the maps, by texts
TEMPLATES = ("a clean origami {}.", "a photo of a {}.", "art of the {}.")


@dataclass(frozen=True)
class Synthetic:
    """What a stage would be given."""

    plan: Plan
    dataset: Dataset

    @property
    def config(self) -> Config:
        """The whole config."""
        return self.plan.config

    @property
    def runs(self) -> list[Run]:
        """The rows of the runs tables."""
        return self.plan.graph.runs

    @property
    def root(self) -> Path:
        """The results folder."""
        return self.plan.root

    def changed(self, runs=None, config=None, root=None) -> "Synthetic":
        """The same with other runs, another config or other results."""
        graph = Graph(config or self.config, self.runs if runs is None else runs)
        return Synthetic(Plan(graph, root or self.root), self.dataset)


def ladder() -> list[Run]:
    """Five runs of the ladder, the last with two seeds."""
    table = {"table": "ladder"}
    crf = {"texts": "synonyms", "cam": "softmax", "affinity": "caa", "masks": "crf"}
    trained = {"segmentation": "cgl", "inference": "default", "seeds": (0, 1)}
    return [
        Run("plain", None, "photo", "plain", note="GradCAM of the class logit", **table),
        Run("softmax", "plain", "photo", "softmax", note="GradCAM of the softmax", **table),
        Run(
            "caa", "softmax", "synonyms", "softmax", "caa", note="attention-based affinity", **table
        ),
        Run("crf", "caa", **crf, note="dense CRF", **table),
        Run("seg-cgl", "crf", **crf, **trained, note="segmentor", **table),
    ]


def online(name: str = "weclip", inference: str = "weclip") -> Run:
    """A run whose labels are made online."""
    cells = ("clip-es", "clip-es", "clip-es", "weclip", "weclip", inference)
    return Run(name, None, *cells, seeds=(0, 1), table="ladder")


def content(folder: Path, masks: bool = True) -> dict:
    """The demo's config with the data below `folder` and nothing quoted, as it is read."""
    found = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))
    found["dataset"].update(root=str(folder / "data"), masks="SegmentationClass" if masks else None)
    found["evaluation"].update(bootstrap=50, published=None, panels=4)
    found["compute"]["shards"] = 2
    if not masks:
        found["dataset"]["splits"].update(score=None, val=None)
    return found


def build(
    folder: Path,
    train: int = 6,
    val: int = 4,
    masks: bool = True,
    runs: list[Run] | None = None,
    settings: dict | None = None,
) -> Synthetic:
    """Write a data set of `train` and `val` images and the results of some runs below `folder`."""
    config = load_config(settings or content(folder, masks))
    write_dataset(folder / "data", train, val)
    graph = Graph(config, runs or ladder())
    dataset = open_dataset(config.dataset.model_dump())
    made = Synthetic(Plan(graph, folder / "results/demo"), dataset)
    write_results(made)
    return made


def write_dataset(root: Path, train: int, val: int, size: tuple[int, int] = (40, 48)) -> None:
    """Write ellipses on noise in the VOC layout, one to three classes an image."""
    names = yaml.safe_load((REPOSITORY / "config/vocabularies/voc12.yaml").read_text())["classes"]
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        ids = [f"{split}_{i:04d}" for i in range(count)]
        listing = root / "ImageSets/Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(ids) + "\n")
        for i, name in enumerate(ids):
            labels = rng.choice(20, size=1 + i % 3, replace=False)
            _write_image(root, name, labels, [names[label] for label in labels], size, rng)


def _write_image(root, name, labels, words, size, rng) -> None:
    height, width = size
    image = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    for at, label in enumerate(labels):
        centre = (
            int(width * (at + 0.6) / (len(labels) + 0.2)),
            int(height * rng.uniform(0.35, 0.65)),
        )
        axes = (int(width * 0.4 / len(labels)) + 1, int(height * rng.uniform(0.12, 0.35)))
        cv2.ellipse(image, centre, axes, 0, 0, 360, rng.integers(0, 255, 3).tolist(), -1)
        cv2.ellipse(mask, centre, axes, 0, 0, 360, int(label) + 1, -1)
    mask[0] = 255
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
    write_label(root / "SegmentationClass" / f"{name}.png", mask)
    objects = "".join(f"<object><name>{word}</name></object>" for word in words)
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}"
        "</annotation>"
    )


def write_results(made: Synthetic) -> None:
    """Write maps, masks, predictions, scores and ranked texts of every run."""
    for run in made.runs:
        path = made.plan.graph.paths[run.name]
        if "texts" in path and path["texts"].identity["template"] == "sharpest":
            _write_ranking(made, path["texts"])
        for group in ("cam", "affinity"):
            if group in path:
                _write_maps(made, run, path[group])
        if "masks" in path:
            _write_masks(made, run, path["masks"])
        if "inference" in path and made.config.dataset.splits.val:
            for seed in run.seeds:
                write_predictions(made, path["inference"], seed, "val", "val")
        if "inference" in path and made.plan.graph.labels_whole_images(path["inference"]):
            for seed in run.seeds:
                write_predictions(made, path["inference"], seed, "labels", "train")
        for stage, files in made.plan.graph.scores(run).items():
            for number, file in enumerate(files):
                _write_score(made, run, stage, number, made.root / file)
    for product in made.plan.scores:
        outputs = {file.name: file for file in product.files}
        write_sidecar(product.sidecar, product.stamp, outputs, {})
    for product in made.plan.rankings:
        write_sidecar(product.sidecar, product.stamp, {"sharpness": product.files[-1]}, {})
    write_logs(made.plan)


def _truth(made: Synthetic, name: str) -> np.ndarray:
    folder = made.dataset.root / "SegmentationClass"
    return np.array(Image.open(folder / f"{name}.png"))


def _seed(*words: str) -> np.random.Generator:
    return np.random.default_rng(list("/".join(words).encode()))


def _shards(made: Synthetic, node: Node):
    """Path and images of every shard."""
    for shard in made.plan.graph.shards:
        path = made.root / made.plan.graph.shard_file(node, shard)
        yield path, shard_ids(made.dataset.ids("train"), shard)


def _write_maps(made: Synthetic, run: Run, node: Node) -> None:
    for path, ids in _shards(made, node):
        if not path.exists():
            write_maps(path, [image_maps(made, run, name)[node.stage] for name in ids])


def image_maps(made: Synthetic, run: Run, name: str) -> dict[str, ImageMaps]:
    """The maps of an image by group: cam, and affinity."""
    truth, keys = _truth(made, name), made.dataset.labels(name)
    rng = _seed(run.texts, run.cam, name)
    noise = NOISE[run.texts] * (1.3 if run.cam == "plain" else 1)
    initial = np.stack([_map(truth == key + 1, noise, 5, rng) for key in keys])
    refined = np.stack([_map(truth == key + 1, noise * 0.6, 2, rng) for key in keys])
    return {
        group: ImageMaps(name, truth.shape, np.array(keys), own)
        for group, own in (("cam", initial), ("affinity", refined))
    }


def _map(region: np.ndarray, noise: float, blur: float, rng: np.random.Generator) -> np.ndarray:
    soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), blur)
    grid = cv2.resize(soft, (GRID, GRID), interpolation=cv2.INTER_AREA)
    grid = grid + noise * 0.6 * rng.random((GRID, GRID))
    grid = grid - grid.min()
    return (grid / (1e-7 + grid.max())).astype(np.float32)


def _write_masks(made: Synthetic, run: Run, node: Node) -> None:
    """Masks as from the refined maps; those of other sources are the ground truth."""
    for path, ids in _shards(made, node):
        images = []
        for name in ids:
            label = _truth(made, name)
            confidence = np.ones(label.shape, np.float32)
            if node.settings["source"] == "maps":
                refined = image_maps(made, run, name)["affinity"]
                full = upsample_maps(refined.maps, refined.size).astype(np.float32)
                scores = np.concatenate([1 - full.max(axis=0, keepdims=True), full]) ** 4
                scores /= scores.sum(axis=0)
                lookup = np.concatenate([[0], refined.keys + 1]).astype(np.uint8)
                label, confidence = lookup[scores.argmax(axis=0)], scores.max(axis=0)
            images.append(encode_image(name, label, encode(confidence)))
        write_archive(path, MASKS, images)


def write_predictions(made: Synthetic, node: Node, seed: int, split: str, of: str) -> None:
    """Write the predictions of a list of images as those of a split."""
    images = []
    for name in made.dataset.ids(of):
        truth = _truth(made, name)
        truth[truth == 255] = 0
        move = np.float32([[1, 0, 2 + seed], [0, 1, 1]])
        moved = cv2.warpAffine(truth, move, truth.shape[::-1], flags=cv2.INTER_NEAREST)
        images.append(encode_image(name, moved))
    path = made.root / made.plan.graph.predictions(node, seed, split)
    write_archive(path, PREDICTIONS, images)


def _write_score(made: Synthetic, run: Run, stage: str, number: int, path: Path) -> None:
    graph, dataset, counts = made.plan.graph, made.dataset, path.with_name("counts.parquet")
    group = {"initial": "cam", "refined": "affinity", "mask": "masks"}.get(stage, "inference")
    node, split, more = graph.paths[run.name][group], "train", {}
    if stage in TRAINED:
        own = "labels" if stage == "labels" else "val"
        split, more = {"labels": "train", "val": "val"}[own], {"seed": run.seeds[number]}
        files = [made.root / graph.predictions(node, run.seeds[number], own)]
    else:
        files = [made.root / file for file in graph.shard_files(node)]
    if stage in MAP_STAGES:
        more = {"powers": made.plan.powers(node)}
    elif stage == "mask":
        more = {"confidence": path.with_name("confidence.parquet")}
    measure(dataset, split, [Measurement(stage, files, path, counts, "float32", **more)])


def _write_ranking(made: Synthetic, texts: Node) -> None:
    path = made.root / texts.folder / "sharpness.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("rank", "template", "sharpness"))
        rows.writerows((i + 1, text, 0.12 + 0.05 * i) for i, text in enumerate(TEMPLATES))
