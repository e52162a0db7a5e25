"""What is to be made, by which code, and what of it is there: the graph as Snakemake needs it.

A stamp says what made a file: the stage, its key, the fingerprint of the code, and the settings of
the machine that change the last bits. It is a parameter of the job and lies in the sidecar beside
its outputs, so that a results folder says by itself what is current, also where Snakemake has no
record of it (a fresh clone after `dvc pull`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clip_wsss.config import load_config
from clip_wsss.errors import InputError
from clip_wsss.fingerprint import code_fingerprint
from clip_wsss.graph import Graph, Node, Pass, old_results
from clip_wsss.runs import read_runs
from clip_wsss.settings import Config
from clip_wsss.sidecar import COMPARED, read_sidecar

_IMAGES = ("numpy", "pillow", "opencv-python-headless")
_CLIP = (*_IMAGES, "torch", "torchvision", "open_clip_torch")
_TRAINING = (*_CLIP, "mmsegmentation", "mmengine", "mmcv-lite")
# The modules that decide the bytes of a job (with all that they import), and the libraries.
CODE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data": (("demo.build",), _IMAGES),
    "features": (("prompts", "clip", "datasets"), _CLIP),
    "texts": (("prompts", "clip", "datasets"), _CLIP),
    "maps": (("cam", "prompts", "clip", "datasets"), _CLIP),
    "masks": (("masks", "datasets"), (*_IMAGES, "pydensecrf2")),
    "segmentation": (("segmentation.train",), _TRAINING),
    "inference": (("segmentation.predict",), (*_TRAINING, "pydensecrf2")),
    "score": (("metrics",), (*_IMAGES, "pandas", "pyarrow")),
    "tables": (("tables",), ("numpy", "pandas", "pyarrow")),
    "report": (("report", "costs"), ("numpy", "pandas", "pyarrow", "matplotlib", "jinja2")),
}


def code(job: str) -> str:
    """The fingerprint of the code of a kind of job."""
    modules, libraries = CODE[job]
    return code_fingerprint(*modules, libraries=libraries)


@dataclass(frozen=True)
class Product:
    """Files that one job makes together, with their sidecar, relative to the project."""

    sidecar: Path
    files: tuple[Path, ...]
    stamp: dict[str, Any]


class Plan:
    """Stamps and products of a graph.

    Args:
        graph: the stages of all runs.
        root: the results folder; None: results/<dataset>.
    """

    def __init__(self, graph: Graph, root: Path | None = None):
        self.graph, self.config = graph, graph.config
        self.root = graph.root if root is None else Path(root)
        self._codes: dict[str, str] = {}

    def code(self, job: str) -> str:
        """The fingerprint of the code of a kind of job."""
        if job not in self._codes:
            self._codes[job] = code(job)
        return self._codes[job]

    def stamp(self, node: Node) -> dict[str, Any]:
        """What a job of this node leaves in its sidecar, without the settings."""
        compute = self.config.compute
        numerics: dict[str, Any] = {"threads": compute.threads}
        job = node.stage
        if job in ("cam", "affinity", "features"):
            numerics["batch"] = compute.batch
            job = "features" if job == "features" else "maps"
        elif job == "segmentation":
            numerics["gpus"] = compute.gpus
        elif job == "masks":
            numerics = {}
        return {"stage": node.stage, "key": node.key, "code": self.code(job), "numerics": numerics}

    def score_stamp(self, stage: str, node: Node, seed: int | None = None) -> dict[str, Any]:
        """The stamp of a measurement."""
        splits, job = self.config.dataset.splits, "score"
        numerics: dict[str, Any] = {"split": splits.val if stage == "segmentation" else splits.score}
        if stage in ("initial", "refined"):
            numerics["powers"] = self.powers
        if seed is not None:
            numerics["seed"] = seed
        return {"stage": stage, "key": node.key, "code": self.code(job), "numerics": numerics}

    @property
    def powers(self) -> list[float]:
        """Every background power that maps are counted at: the sweep, and those of the runs."""
        own = {settings.masks.background_power for settings in self.graph.settings.values()
               if settings.masks is not None}  # fmt: skip
        evaluation = self.config.evaluation
        return sorted({*own, *evaluation.powers, evaluation.background_power})

    @staticmethod
    def sidecar(file: str | Path) -> Path:
        """The sidecar of a shard, an archive or a table of features."""
        return Path(file).with_suffix(".json")

    def shard(self, node: Node, shard: str) -> Product:
        """A shard of maps or masks."""
        file = self.root / self.graph.shard_file(node, shard)
        return Product(self.sidecar(file), (file,), self.stamp(node))

    def training(self, node: Node, seed: int) -> Product:
        """A training."""
        folder = self.root / self.graph.training(node, seed)
        files = (folder / "checkpoint.pth", folder / "log.csv")
        return Product(folder / "checkpoint.json", files, self.stamp(node))

    def predictions(self, node: Node, seed: int, split: str) -> Product:
        """The predictions of a split."""
        file = self.root / self.graph.predictions(node, seed, split)
        return Product(self.sidecar(file), (file,), self.stamp(node))

    def features(self, texts: Node) -> Product:
        """The image features that rank the templates of ranked texts."""
        node = self.graph.features(texts)
        file = self.root / node.folder / "image_features.npz"
        return Product(self.sidecar(file), (file,), self.stamp(node))

    def texts(self, texts: Node) -> Product:
        """Ranked texts."""
        folder = self.root / texts.folder
        names = ("text_features.npz", "prompt.json", "sharpness.csv")
        files = tuple(folder / name for name in names)
        return Product(self.sidecar(files[0]), files, self.stamp(texts))

    def score(self, stage: str, node: Node, seed: int | None = None) -> Product:
        """A measurement."""
        folder = self.root / self.graph.score(stage, node, seed)
        names = ["score.json", "counts.parquet", *(["confidence.parquet"] * (stage == "mask"))]
        files = tuple(folder / name for name in names)
        return Product(folder / "sidecar.json", files, self.score_stamp(stage, node, seed))

    @cached_property
    def maps(self) -> list[Product]:
        """All shards of maps."""
        nodes = self.graph.nodes("cam", "affinity")
        return [self.shard(node, shard) for node in nodes for shard in self.graph.shards]

    @cached_property
    def masks(self) -> list[Product]:
        """All shards of masks."""
        nodes = self.graph.nodes("masks")
        return [self.shard(node, shard) for node in nodes for shard in self.graph.shards]

    @cached_property
    def trainings(self) -> list[Product]:
        """All trainings."""
        nodes = self.graph.nodes("segmentation")
        return [self.training(node, seed) for node in nodes for seed in self.graph.seeds(node)]

    @cached_property
    def scores(self) -> list[Product]:
        """All measurements."""
        found = {}
        groups = {"initial": "cam", "refined": "affinity", "mask": "masks"}
        for run in self.graph.runs:
            for stage in self.graph.scores(run):
                node = self.graph.paths[run.name][groups.get(stage, "inference")]
                for seed in run.seeds if stage == "segmentation" else (None,):
                    product = self.score(stage, node, seed)
                    found[product.sidecar] = product
        return [found[path] for path in sorted(found)]

    @property
    def texts_files(self) -> list[Product]:
        """Ranked texts, and the features that ranked them."""
        ranked = [one for one in self.graph.nodes("texts") if one.parents[0].stage == "features"]
        return [make(one) for one in ranked for make in (self.features, self.texts)]

    @cached_property
    def shown(self) -> list[Product]:
        """The predictions of the images that the report shows."""
        return self._predictions("shown")

    @cached_property
    def val(self) -> list[Product]:
        """The predictions of the validation split."""
        return self._predictions("val") if self.config.dataset.splits.val is not None else []

    def _predictions(self, split: str) -> list[Product]:
        nodes = self.graph.nodes("inference")
        return [self.predictions(n, seed, split) for n in nodes for seed in self.graph.seeds(n)]

    @property
    def products(self) -> Iterator[Product]:
        """Everything that has a sidecar."""
        for some in (self.texts_files, self.maps, self.masks, self.trainings, self.val, self.scores):
            yield from some

    def stale(self) -> set[str]:
        """Sidecars of files that are there and that other settings or other code have made."""
        return {str(one.sidecar) for one in self.products if one.sidecar.is_file() and not fits(one)}

    def current(self, one: Pass) -> list[Node]:
        """The nodes of a pass of which every shard is there and was made as planned."""
        return [
            node
            for node in one.nodes
            if all(
                product.sidecar.is_file() and product.files[0].is_file() and fits(product)
                for product in (self.shard(node, shard) for shard in self.graph.shards)
            )
        ]


def fits(product: Product) -> bool:
    """Whether a sidecar is of the plan; whether the files fit it is for their reader to see."""
    try:
        made = read_sidecar(product.sidecar)["stamp"]
    except InputError:
        return False
    return all(made.get(field) == product.stamp[field] for field in COMPARED)


def make_plan(content: dict, source: str = "config") -> Plan:
    """Check a config and plan its runs.

    Raises:
        InputError: anything that cannot be used, or results of an earlier version.
    """
    config: Config = load_config(content, source)
    graph = Graph(config, read_runs(config))
    if old := [str(path) for path in old_results(graph.root)]:
        raise InputError(
            f"{', '.join(old)}: results of an earlier version of this suite; move {graph.root} "
            "away or delete it"
        )
    return Plan(graph)
