"""A small data set and the files that every stage would write for it, made without any model.

Maps are blurred ground truth with noise, so figures and pictures look like real ones, and all is
drawn from fixed seeds. The tests of the report read it.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from clip_wsss.datasets import Dataset, open_dataset
from clip_wsss.imageio import write_confidence, write_label
from clip_wsss.maps import ImageMaps, upsample_maps, write_maps
from clip_wsss.metrics import evaluate_cams, evaluate_labels
from clip_wsss.runs import Run, exports_masks, has_ground_truth, metric_files, resolve

REPOSITORY = Path(__file__).resolve().parents[1]
GRID = 8
SHARDS = ("0001of0002", "0002of0002")
NOISE = {"photo": 0.75, "sharpest": 0.6, "synonyms": 0.5, "clip-es": 0.55}  # of the maps, by texts
TEMPLATES = ("a clean origami {}.", "a photo of a {}.", "art of the {}.")


@dataclass(frozen=True)
class Synthetic:
    """What a stage would be given."""

    config: dict
    runs: list[Run]
    dataset: Dataset
    root: Path


def ladder() -> list[Run]:
    """Five runs of the ladder, the last with two seeds."""

    def run(name, base, texts, cam, masks, segmentation=None, seeds=(0,), note=""):
        return Run(name, base, texts, cam, masks, segmentation, seeds, note, "ladder")

    return [
        run("plain", None, "photo", "plain", "initial", note="GradCAM of the class logit"),
        run("softmax", "plain", "photo", "softmax", "initial", note="GradCAM of the softmax"),
        run("caa", "softmax", "synonyms", "softmax", "caa", note="attention-based affinity"),
        run("crf", "caa", "synonyms", "softmax", "caa-crf", note="dense CRF"),
        run("seg-cgl", "crf", "synonyms", "softmax", "caa-crf", "cgl", (0, 1), "segmentor"),
    ]


def build(folder: Path, train: int = 6, val: int = 4, masks: bool = True) -> Synthetic:
    """Write a data set of `train` and `val` images and the results of `ladder()` below `folder`."""
    config = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))
    config["dataset"].update(
        root=str(folder / "data"),
        vocabulary=str(REPOSITORY / "config/vocabularies/voc12.yaml"),
        masks="SegmentationClass" if masks else None,
    )
    config["evaluation"].update(bootstrap=50, published=None, panels=4)
    write_dataset(folder / "data", train, val)
    if not masks:
        config["dataset"]["splits"].update(score=None, val=None)
    made = Synthetic(config, ladder(), open_dataset(config["dataset"]), folder / "results/demo")
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
    """Write maps, masks, predictions, metrics and prompts of every run."""
    for run in made.runs:
        _write_prompts(made, run)
        shards = _write_maps(made, run)
        if exports_masks(made.config, run):
            _write_masks(made, run)
        if run.segmentation is not None and made.config["dataset"]["splits"]["val"]:
            _write_predictions(made, run)
        if has_ground_truth(made.config):
            _write_metrics(made, run, shards)


def _truth(made: Synthetic, name: str) -> np.ndarray:
    folder = made.dataset.root / "SegmentationClass"
    return np.array(Image.open(folder / f"{name}.png"))


def _seed(*words: str) -> np.random.Generator:
    return np.random.default_rng(list("/".join(words).encode()))


def _write_maps(made: Synthetic, run: Run) -> dict[str, list[Path]]:
    """Write the initial and the refined maps of a run; the shards of each."""
    ids, shards = made.dataset.ids("train"), {}
    for stage, folder in (("initial", "cams"), ("refined", "affinity")):
        paths = [made.root / folder / run.texts / run.cam / f"{shard}.npz" for shard in SHARDS]
        for number, path in enumerate(paths):
            if not path.exists():
                part = ids[number * len(ids) // 2 : (number + 1) * len(ids) // 2]
                write_maps(path, [image_maps(made, run, name)[stage] for name in part])
        shards[stage] = paths
    return shards


def image_maps(made: Synthetic, run: Run, name: str) -> dict[str, ImageMaps]:
    """The initial and the refined maps of an image."""
    truth, keys = _truth(made, name), made.dataset.labels(name)
    rng = _seed(run.texts, run.cam, name)
    noise = NOISE[run.texts] * (1.3 if run.cam == "plain" else 1)
    initial = np.stack([_map(truth == key + 1, noise, 5, rng) for key in keys])
    refined = np.stack([_map(truth == key + 1, noise * 0.6, 2, rng) for key in keys])
    return {
        stage: ImageMaps(name, truth.shape, np.array(keys), own)
        for stage, own in (("initial", initial), ("refined", refined))
    }


def _map(region: np.ndarray, noise: float, blur: float, rng: np.random.Generator) -> np.ndarray:
    soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), blur)
    grid = cv2.resize(soft, (GRID, GRID), interpolation=cv2.INTER_AREA)
    grid = grid + noise * 0.6 * rng.random((GRID, GRID))
    grid = grid - grid.min()
    return (grid / (1e-7 + grid.max())).astype(np.float32)


def _write_masks(made: Synthetic, run: Run) -> None:
    folder = made.root / "masks" / run.texts / run.cam / run.masks
    for name in made.dataset.ids("train"):
        refined = image_maps(made, run, name)["refined"]
        full = upsample_maps(refined.maps, refined.size).astype(np.float32)
        scores = np.concatenate([1 - full.max(axis=0, keepdims=True), full]) ** 4
        scores /= scores.sum(axis=0)
        lookup = np.concatenate([[0], refined.keys + 1]).astype(np.uint8)
        write_label(folder / "labels" / f"{name}.png", lookup[scores.argmax(axis=0)])
        write_confidence(folder / "confidence" / f"{name}.png", scores.max(axis=0))


def _write_predictions(made: Synthetic, run: Run) -> None:
    for seed in run.seeds:
        folder = _segmentation(made, run, seed) / "predictions"
        for name in made.dataset.ids("val"):
            truth = _truth(made, name)
            truth[truth == 255] = 0
            move = np.float32([[1, 0, 2 + seed], [0, 1, 1]])
            moved = cv2.warpAffine(truth, move, truth.shape[::-1], flags=cv2.INTER_NEAREST)
            write_label(folder / f"{name}.png", moved)


def _segmentation(made: Synthetic, run: Run, seed: int) -> Path:
    cells = run.texts, run.cam, run.masks, run.segmentation, f"seed{seed}"
    return made.root.joinpath("segmentation", *cells)


def _write_metrics(made: Synthetic, run: Run, shards: dict[str, list[Path]]) -> None:
    masks = resolve(made.config, "masks", run.masks)
    for stage, files in metric_files(made.config, run).items():
        for number, file in enumerate(files):
            path = made.root / file
            counts, meta = (
                path.with_name(path.name.removesuffix(".json") + ".parquet"),
                {"precision": "float32"},
            )
            if stage in ("initial", "refined"):
                evaluate_cams(
                    made.dataset, made.dataset.ids("train"), shards[stage], stage,
                    made.config["evaluation"]["powers"], masks["background_power"],
                    path, counts, {**meta, "split": "train"},
                )  # fmt: skip
            elif stage == "mask":
                folder = made.root / "masks" / run.texts / run.cam / run.masks
                evaluate_labels(
                    made.dataset, "train", folder / "labels", stage, path, counts, meta,
                    folder / "confidence", path.with_name("confidence.parquet"),
                )  # fmt: skip
            else:
                seed = run.seeds[number]
                folder = _segmentation(made, run, seed) / "predictions"
                evaluate_labels(
                    made.dataset, "val", folder, stage, path, counts, {**meta, "seed": seed}
                )


def _write_prompts(made: Synthetic, run: Run) -> None:
    model = resolve(made.config, "cam", run.cam)["model"]
    folder = made.root / "prompts" / model / run.texts
    folder.mkdir(parents=True, exist_ok=True)
    ranked = resolve(made.config, "texts", run.texts)["template"] == "sharpest"
    template = TEMPLATES[0] if ranked else resolve(made.config, "texts", run.texts)["template"]
    (folder / "prompt.json").write_text(
        json.dumps({"template": [template], "chosen_by": "sharpness" if ranked else "config"})
    )
    with (folder / "sharpness.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("rank", "template", "sharpness"))
        if ranked:
            rows.writerows((i + 1, text, 0.12 + 0.05 * i) for i, text in enumerate(TEMPLATES))
