"""A results folder of measurements only, for the tests of tables and comparisons.

Three classes with the background; every image is 100 pixels whose errors are drawn at random, so
the figures are known by construction and no stage has to run.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from clip_wsss.core.confidence import encode
from clip_wsss.runs.config import load_config
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.settings import Config
from clip_wsss.runs.sidecar import write_sidecar
from clip_wsss.runs.stages import MAP_STAGES
from clip_wsss.runs.table import Run
from clip_wsss.score.calibration import Calibration
from clip_wsss.score.confusion import confusion_matrix, iou, mean_iou

REPOSITORY = Path(__file__).resolve().parents[1]
CLASSES = ("background", "cat", "dog")
QUALITY = {"plain": 0.55, "softmax": 0.6, "caa": 0.7, "crf": 0.8}  # share of right pixels
POWERS = (1, 2)
CHOSEN = "a clean origami {}."  # the template that a ranking chose


def content(**evaluation) -> dict:
    """The demo's config with few resamples, two shards and nothing quoted, as it is read."""
    found = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))
    found["evaluation"].update({"bootstrap": 200, "published": None, **evaluation})
    found["compute"]["shards"] = 2
    return found


def config(**evaluation) -> Config:
    """The same, checked."""
    return load_config(content(**evaluation))


def run(name, base, texts="photo", cam="softmax", affinity=None, masks=None, segmentation=None,
        **more) -> Run:  # fmt: skip
    """One row of a runs table called ladder."""
    inference = "default" if segmentation else None
    more = {"inference": inference, "table": "ladder", **more}
    return Run(name, base, texts, cam, affinity, masks, segmentation, **more)


def ladder() -> list[Run]:
    """Plain, softmax, CAA, CRF, and two segmentors, the second with two seeds."""
    trained = {"affinity": "caa", "masks": "crf"}
    return [
        run("plain", None, cam="plain"),
        run("softmax", "plain"),
        run("caa", "softmax", affinity="caa"),
        run("crf", "caa", affinity="caa", masks="crf"),
        run("all", "crf", **trained, segmentation="all-pixels"),
        run("cgl", "all", **trained, segmentation="cgl", seeds=(0, 1)),
    ]


def plan(root: Path, runs: list[Run], settings: Config | None = None) -> Plan:
    """The plan of some runs whose results lie in `root`."""
    return Plan(Graph(settings or config(), runs), root)


def score(made: Plan, name: str, stage: str, number: int = 0) -> str:
    """The score.json of a run's stage, relative to the results."""
    row = next(row for row in made.graph.runs if row.name == name)
    return made.graph.scores(row)[stage][number]


def draw(quality: float, seed: int, images: int = 12) -> pd.DataFrame:
    """Counts of images whose pixels are right with the probability `quality`."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        for truth in (0, 1 + image % 2):
            right = int(rng.binomial(50, quality))
            wrong = (truth + 1) % 3
            rows += [
                (f"i{image:02d}", truth, truth, right),
                (f"i{image:02d}", truth, wrong, 50 - right),
            ]
    counts = pd.DataFrame(rows, columns=["id", "truth", "prediction", "pixels"])
    counts = counts[counts["pixels"] > 0]
    return counts.astype({"truth": np.uint8, "prediction": np.uint8, "pixels": np.int32})


def write_measurement(path: Path, stage: str, counts: pd.DataFrame, **more) -> None:
    """Write the score.json and the counts of one measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = {
        "stage": stage, "dataset": "demo", "split": "val" if stage == "segmentation" else "train",
        "images": counts["id"].nunique(), "seed": None, "precision": "float32", "skipped": [],
        "without_truth": [],
    }  # fmt: skip
    if stage in MAP_STAGES:
        values = {f"{p:g}": _iou(part) for p, part in counts.groupby("power")}
        mious = {power: mean_iou(found) for power, found in values.items()}
        best = max(mious, key=mious.__getitem__)
        info |= {"powers": mious, "iou": {power: _named(found) for power, found in values.items()},
                 "oracle": {"power": float(best), "miou": mious[best]}, "maps": info["images"],
                 "zero_maps": 0, "zero_classes": [], "scaled_down": 0}  # fmt: skip
    else:
        values = _iou(counts)
        info |= {"miou": mean_iou(values), "iou": _named(values), "unlabelled": 0.0, "unsure": 0}
    path.write_text(json.dumps({**info, **more}))
    counts.to_parquet(path.with_name("counts.parquet"), index=False)


def _iou(counts: pd.DataFrame) -> np.ndarray:
    return iou(confusion_matrix(counts, len(CLASSES)))


def _named(values: np.ndarray) -> dict:
    return {name: None if np.isnan(v) else v for name, v in zip(CLASSES, values, strict=True)}


def write_results(made: Plan, gain: float = 0) -> None:
    """Write the measurements of a plan; maps are better by 0.05 at power 2 than at power 1."""
    for row in made.graph.runs:
        for stage, files in made.graph.scores(row).items():
            for number, file in enumerate(files):
                write_one(made.root / file, row, stage, number, gain)
    sign(made)


def sign_tables(made: Plan) -> None:
    """Write the sidecar of the tables, as they are now."""
    product = made.tables_product
    outputs = {file.relative_to(made.root).as_posix(): file for file in product.files}
    write_sidecar(product.sidecar, product.stamp, outputs, {})


def write_logs(made: Plan, pixels: Sequence[int] = (7, 7, 7)) -> None:
    """Write the logs of all trainings: an update each, with so many counted pixels."""
    for product in made.trainings:
        log = product.files[-1]
        log.parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{n},0.5,0.1,{number},99\n" for n, number in enumerate(pixels, start=1))
        log.write_text(f"iteration,loss,lr,pixels,of\n{rows}")
        write_sidecar(product.sidecar, product.stamp, {"log": log}, {})


def sign(made: Plan, logs: bool = True) -> None:
    """Write the sidecars of all measurements and rankings, as they are now."""
    for product in made.rankings:
        sharpness = product.files[-1]
        sharpness.parent.mkdir(parents=True, exist_ok=True)
        if not sharpness.exists():
            sharpness.write_text(
                f"rank,template,sharpness\n1,{CHOSEN},0.1\n2,a photo of a {{}}.,0.2\n"
            )
        write_sidecar(product.sidecar, product.stamp, {"sharpness": sharpness}, {})
    if logs:
        write_logs(made)
    for product in made.scores:
        outputs = {file.name: file for file in product.files}
        write_sidecar(product.sidecar, product.stamp, outputs, {})


def write_one(path: Path, row: Run, stage: str, number: int, gain: float) -> None:
    """Write one measurement of a run, drawn from a seed that its cells give."""
    cells = [row.texts, row.cam]
    cells += [f"{row.affinity}-{row.masks}"] if stage in ("mask", "segmentation") else []
    cells += [row.segmentation, f"seed{row.seeds[number]}"] if stage == "segmentation" else []
    name = f"{stage}," if stage in MAP_STAGES else f"{stage}.json"
    seed = list("/".join(["metrics", *map(str, cells), name]).encode())
    if stage in MAP_STAGES:
        quality = QUALITY["plain" if row.cam == "plain" else "softmax"] + gain
        quality += 0.1 * (stage == "refined")
        powers = [draw(quality + 0.05 * (p - 1), seed).assign(power=float(p)) for p in POWERS]
        write_measurement(path, stage, pd.concat(powers))
    elif stage == "mask":
        write_measurement(path, stage, draw(QUALITY["crf"] + gain, seed))
        calibration = Calibration()
        codes = encode(np.array([[0.97, 0.97, 0.6, 0.4]], np.float32))
        calibration.add(codes, np.array([[True, True, True, False]]), np.ones((1, 4), bool))
        calibration.table().to_parquet(path.with_name("confidence.parquet"), index=False)
    else:
        quality = 0.7 + 0.1 * (row.segmentation == "cgl") + 0.02 * number + gain
        quality += 0.15 * (row.masks == "ground-truth")
        write_measurement(path, stage, draw(quality, seed), seed=row.seeds[number])
