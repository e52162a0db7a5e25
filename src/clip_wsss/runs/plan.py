"""What is to be made, by which code, and what of it is there: the graph as Snakemake needs it.

A stamp says what made a file: the stage, its key, the fingerprint of the code, and the settings of
the machine that change the last bits. It is a parameter of the job and lies in the sidecar beside
its outputs, so that a results folder says by itself what is current, also where Snakemake has no
record of it (a fresh clone after `dvc pull`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_wsss.affinities.sources import AttentionSettings
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import sha256
from clip_wsss.core.methods import method, methods_of, plugin_folders
from clip_wsss.core.resources import find
from clip_wsss.data.check import Use
from clip_wsss.data.datasets import TAGCLIP, open_dataset
from clip_wsss.prompts.texts import read_templates
from clip_wsss.runs.config import GROUPS, load_config
from clip_wsss.runs.contents import digest_of
from clip_wsss.runs.fingerprint import code_fingerprint, function_fingerprint
from clip_wsss.runs.graph import RANKING, Graph, old_results, templates_of
from clip_wsss.runs.nodes import (
    TOWERS,
    Node,
    Pass,
    cam_of,
    is_online,
    needs_texts,
    ranked_texts,
    texts_of,
    words_of,
)
from clip_wsss.runs.settings import Config, DatasetSettings, Texts
from clip_wsss.runs.sidecar import RUN, combined, read_sidecar, same
from clip_wsss.runs.sidecar import check as check_sidecar
from clip_wsss.runs.stages import GROUP_OF, MAP_STAGES, TRAINED
from clip_wsss.runs.table import read_runs

if TYPE_CHECKING:
    from clip_wsss.models.check import Asked, Prompts

_IMAGES = ("numpy", "pillow", "opencv-python-headless")
_CLIP = (*_IMAGES, "torch", "torchvision", "open_clip_torch")
_TRAINING = (*_CLIP, "mmsegmentation", "mmengine", "mmcv-lite")
_ONLINE = (
    "segmentation.weclip.segmentor",
    "segmentation.weclip.data",
)  # what no other training loads
# The modules that decide the bytes of a job (with all that they import), and the libraries.
CODE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data": (("demo.build",), _IMAGES),
    "check": (("data.check",), _IMAGES),
    "tags": (("tags.write", "prompts.texts", "models.clip", "data.datasets"), _CLIP),
    "score_tags": (("score.tags",), _IMAGES),
    "features": (("prompts.texts", "models.clip", "data.datasets"), _CLIP),
    "texts": (("prompts.texts", "models.clip", "data.datasets"), _CLIP),
    "maps": (
        ("cams.passes", "prompts.texts", "models.opening", "data.datasets", "core.shards"),
        _CLIP,
    ),
    "masks": (("masks.write", "data.datasets", "core.shards"), (*_IMAGES, "pydensecrf2", "torch")),
    "masks-towers": (("masks.write", "data.datasets", "core.shards"), (*_CLIP, "pydensecrf2")),
    "segmentation": (("segmentation.train",), _TRAINING),
    "inference": (("segmentation.predict", "data.choice"), (*_TRAINING, "pydensecrf2")),
    "segmentation-online": (("segmentation.train", *_ONLINE), _TRAINING),
    "inference-online": (
        ("segmentation.predict", "data.choice", *_ONLINE),
        (*_TRAINING, "pydensecrf2"),
    ),
    "labels": (("segmentation.predict", *_ONLINE), (*_TRAINING, "pydensecrf2")),
    "submission": (("segmentation.submission",), ()),
    "score": (("score.metrics",), (*_IMAGES, "pandas", "pyarrow")),
    "tables": (("tables.write",), ("numpy", "pandas", "pyarrow")),
    "report": (
        ("report.write", "tables.costs"),
        ("numpy", "pandas", "pyarrow", "matplotlib", "jinja2"),
    ),
}

# The scripts of a kind of job, where they are not called like it.
SCRIPTS = {"data": ("demo_data",), "features": ("texts",), "tags": ("tags", "join_tags")}

# What `clip_wsss.tables.write` writes: each table of runs in these layouts, and one each of these.
LAYOUTS = ("csv", "md", "tex")
TABLES = (
    "figures.csv", "per_class.csv", "per_class.md", "confidence.csv", "headline.csv",
    "metrics.json", "remarks.csv", "runs.json", "index.csv", "config.yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Product:
    """Files that one job makes together, with their sidecar, relative to the project.

    Attributes:
        sidecar: of the job.
        files: its outputs.
        stamp: what the plan says of them.
        inputs: by their names in the sidecar, products that it is made from, and other files; for
            a job that leaves outputs in place, which are there again after it has failed.
    """

    sidecar: Path
    files: tuple[Path, ...]
    stamp: dict[str, Any]
    inputs: Mapping[str, Sequence[Product | Path]] = field(default_factory=dict)


class Plan:
    """Stamps and products of a graph.

    Args:
        graph: the stages of all runs.
        root: the results folder; None: results/<dataset>.
        scripts: folder of the workflow's scripts, whose code counts too.
        store: what a relative results folder lies below.
    """

    def __init__(
        self,
        graph: Graph,
        root: Path | None = None,
        *,
        scripts: Path | None = None,
        store: Path = Path(),
    ):
        self.graph, self.config = graph, graph.config
        self.scripts, self.store = scripts, store
        self.root = graph.root if root is None else Path(root)
        self._codes: dict[str, str] = {}

    def code(self, job: str) -> str:
        """The fingerprint of the code of a kind of job."""
        if job not in self._codes:
            modules, libraries = CODE[job]
            scripts = SCRIPTS.get(job, (job.partition("-")[0],))
            named = [] if self.scripts is None else [self.scripts / f"{one}.py" for one in scripts]
            self._codes[job] = code_fingerprint(*modules, scripts=named, libraries=libraries)
        return self._codes[job]

    def _method_code(self, target: str) -> str:
        """The fingerprint of a method's code, `package.module:function`."""
        if target not in self._codes:
            self._codes[target] = function_fingerprint(target)
        return self._codes[target]

    def stamp(self, node: Node) -> dict[str, Any]:
        """What a job of this node leaves in its sidecar, without the settings."""
        compute = self.config.compute
        numerics: dict[str, Any] = {"threads": compute.threads}
        job = node.stage
        if job in ("cam", "affinity"):
            numerics["batch"] = compute.batch
            job = "maps"
        elif job == "segmentation":
            numerics["gpus"] = compute.gpus
        elif job == "masks":
            numerics = {}
            job = "masks-towers" if TOWERS in node.methods else job
        if is_online(node) or any(map(is_online, node.parents)):
            job = f"{job}-online"
        code = self._code_with(job, node.methods)
        return {"stage": node.stage, "key": node.key, "code": code, "numerics": numerics}

    def _code_with(self, job: str, methods: tuple[str, ...]) -> str:
        """The fingerprint of a job and of methods, whose code counts for those that name them."""
        code = self.code(job)
        if methods:
            lines = [code, *sorted(map(self._method_code, set(methods)))]
            code = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return code

    def score_stamp(self, stage: str, node: Node, seed: int | None = None) -> dict[str, Any]:
        """The stamp of a measurement."""
        splits, job = self.config.dataset.splits, "score"
        split = splits.val if stage == "segmentation" else splits.score  # labels too
        numerics: dict[str, Any] = {"split": split, "truth": None, **self.graph.truth(split)}
        if stage in MAP_STAGES:
            numerics["powers"] = self.powers(node)
            numerics["sweep"] = sorted(self.config.evaluation.powers)
        if seed is not None:
            numerics["seed"] = seed
        return {"stage": stage, "key": node.key, "code": self.code(job), "numerics": numerics}

    def pass_stamp(self, one: Pass) -> dict[str, Any]:
        """What all maps of a pass share: the code and what changes the last bits."""
        return {"code": self.code("maps"), "numerics": self.stamp(one.nodes[0])["numerics"]}

    def predictions_stamp(self, split: str) -> dict[str, Any]:
        """What all predictions of a split share, or all `labels` of finished trainings."""
        compute = self.config.compute
        shown = {"shown": self.shown} if split == "val" else {}
        numerics = {"threads": compute.threads, "split": self.split_of(split), **shown}
        job = "labels" if split == "labels" else "inference"
        return {"code": self.code(job), "numerics": numerics}

    def split_of(self, predicted: str) -> str | None:
        """The images of predictions of val or test, or of `labels` of finished trainings."""
        return getattr(self.config.dataset.splits, "score" if predicted == "labels" else predicted)

    def inference_stamp(self, node: Node, split: str) -> dict[str, Any]:
        """The stamp of predictions; those of the images that are shown lie beside `val`."""
        stamp = self.stamp(node) | {"numerics": self.predictions_stamp(split)["numerics"]}
        if split == "labels":  # made by the training's own maker
            methods = (*node.methods, *node.parents[0].methods)
            stamp["code"] = self._code_with("labels", methods)
        return stamp

    @property
    def resolved(self) -> dict[str, Any]:
        """The config with its parents and defaults, which gives the same keys anywhere.

        It is without where and by how many processes it ran, which changes no table, and names the
        folders of methods that were found beside a config.
        """
        config = self.config
        stages = [vars(one).values() for one in self.graph.settings.values()]
        entries = [getattr(config, group).values() for group in GROUPS]
        used = [one for several in (*stages, *entries) for one in several if one is not None]
        folders = plugin_folders(method for one in used for method in methods_of(one))
        content = config.model_dump(exclude={"compute": {"device", "workers", "predictors"}})
        outside = [
            str(Path(one).resolve()) if ".." in Path(one).parts else one for one in config.plugins
        ]
        return {**content, "plugins": list(dict.fromkeys([*outside, *folders]))}

    @cached_property
    def tables_product(self) -> Product:
        """The tables; their stamp says what they depend on besides the measurements."""
        runs = [
            [run.name, run.table, run.base, run.note, list(run.seeds)] for run in self.graph.runs
        ]
        settings = {
            name: {
                "scoring": one.masks.scoring if one.masks else None,
                "folders": {stage: node.name for stage, node in self.graph.paths[name].items()},
            }
            for name, one in self.graph.settings.items()
        }
        published = self.config.evaluation.published
        content = {
            "runs": runs,
            "settings": settings,
            "config": self.config.model_dump(exclude={"compute", "sources", "demo", "plugins"}),
            "published": None if published is None else sha256(find(published)),
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        stamp = {"stage": "tables", "key": key, "code": self.code("tables"), "numerics": {}}
        files = tuple(self.tables)
        return Product(self.root / "tables/sidecar.json", files, stamp, {"scores": self.scores})

    @cached_property
    def report_product(self) -> Product:
        """The report, which follows from the tables and the files that it shows."""
        key, numerics = self.tables_product.stamp["key"], {"shown": self.shown}
        code = self.code("report")
        stamp = {"stage": "report", "key": key, "code": code, "numerics": numerics}
        return Product(self.root / "report.json", (self.root / "report.html",), stamp)

    def precision(self, node: Node) -> str:
        """The precision that a measurement of a node notes."""
        own = node.parent("segmentation") if node.stage == "inference" else node
        while own is not None and "precision" not in own.settings:
            own = own.parent("cam")
        return own.settings["precision"] if own is not None else "none"

    def powers(self, node: Node) -> list[float]:
        """The background powers that maps are counted at: the sweep, and those of their runs."""
        own = {
            settings.masks.background_power
            for name, settings in self.graph.settings.items()
            if settings.masks is not None and node in self.graph.paths[name].values()
        }
        evaluation = self.config.evaluation
        return sorted({*own, *evaluation.powers, evaluation.background_power})

    @staticmethod
    def sidecar(file: str | Path) -> Path:
        """The sidecar of a shard, an archive or a table of features."""
        return Path(file).with_suffix(".json")

    def shard(self, node: Node, shard: str) -> Product:
        """A shard of maps or masks."""
        file = self.root / self.graph.shard_file(node, shard)
        texts = self.texts_read(node)
        inputs: dict[str, Sequence[Product | Path]] = {
            "lists": self.images_of(self.config.dataset.splits.pseudo)
        }
        if node.stage == "masks":
            maps = node.parents[0].stage != "images"
            inputs["maps"] = [self.shard(node.parents[0], shard)] if maps else []
        if texts or node.stage != "masks":
            inputs["texts"] = texts
        images = self.graph.image_files(self.config.dataset.splits.pseudo, shard=shard)
        return Product(self.sidecar(file), (file,), self.stamp(node) | images, inputs)

    def training(self, node: Node, seed: int) -> Product:
        """A training."""
        folder = self.root / self.graph.training(node, seed)
        files = (folder / "checkpoint.pth", folder / "log.csv")
        lists = self.images_of(self.config.dataset.splits.pseudo)
        inputs: dict[str, Sequence[Product | Path]] = {"lists": lists}
        if not is_online(node):
            inputs["masks"] = self.masks_read(node)
        if needs_texts(node):
            inputs["texts"] = self.texts_read(node)
        stamp = self.stamp(node) | self.graph.image_files(self.config.dataset.splits.pseudo)
        return Product(folder / "checkpoint.json", files, stamp, inputs)

    def masks_read(self, training: Node) -> list[Product]:
        """The masks that a training reads; none if it makes its labels itself."""
        return [] if is_online(training) else self.products(training.parents[0])

    def texts_read(self, node: Node) -> list[Product]:
        """The ranked texts that maps, masks or a training read.

        Masks read them if their refinement may ask for the cam's tower, a training if it makes its
        labels itself or has a text head.
        """
        reads = {"masks": TOWERS in node.methods, "segmentation": needs_texts(node)}
        ranked = ranked_texts(node) if reads.get(node.stage, True) else None
        return [] if ranked is None else [self.texts(ranked)]

    def predictions(self, node: Node, seed: int, split: str) -> Product:
        """The predictions of a split: val, with the images that the report shows, or test.

        Or `labels`: those of the finished training's own maker, of the scored images.
        """
        names = (split, "shown") if split == "val" else (split,)
        files = tuple(self.root / self.graph.predictions(node, seed, name) for name in names)
        inputs: dict[str, Sequence[Product | Path]] = {
            "lists": self.images_of_inference(split),
            "checkpoint": [self.training(node.parents[0], seed)],
        }
        if split == "labels":
            inputs["texts"] = self.texts_read(node.parents[0])
        others = [self.shown["split"]] if split == "val" else []
        images = self.graph.image_files(self.split_of(split), *others)
        stamp = self.inference_stamp(node, split) | images
        return Product(self.sidecar(files[0]), files, stamp, inputs)

    def features(self, node: Node) -> Product:
        """The image features that rank templates."""
        file = self.root / node.folder / "image_features.npz"
        lists = self.images_of(self.config.dataset.splits.prompts)
        stamp = self.stamp(node) | self.graph.image_files(self.config.dataset.splits.prompts)
        return Product(self.sidecar(file), (file,), stamp, {"lists": lists})

    def texts(self, texts: Node) -> Product:
        """Ranked texts."""
        folder = self.root / texts.folder
        names = ("text_features.npz", "prompt.json", RANKING)
        files = tuple(folder / name for name in names)
        inputs: dict[str, Sequence[Product | Path]] = {
            "lists": self.images_of(self.config.dataset.splits.prompts),
            "features": [self.features(texts.parents[0])],
        }
        return Product(self.sidecar(files[0]), files, self.stamp(texts), inputs)

    @cached_property
    def tags(self) -> Product | None:
        """The predicted labels, and the scores that they follow from; None where they are given."""
        if (node := self.graph.tags) is None:
            return None
        folder = self.root / node.folder
        files = (folder / "labels.csv", folder / "scores.csv")
        inputs: dict[str, list[Product | Path]] = {
            "scores": [self.tag_shard(node, shard) for shard in self.graph.shards]
        }
        return Product(folder / "labels.json", files, self.stamp(node), inputs)

    def tag_shard(self, node: Node, shard: str) -> Product:
        """The scores of a shard of all images whose labels are predicted."""
        file = self.root / node.folder / f"{shard}.csv"
        lists = dict.fromkeys(
            path for split in node.settings["splits"] for path in self.lists_of(split)
        )
        stamp = self.stamp(node) | self.graph.image_files(*node.settings["splits"], shard=shard)
        return Product(self.sidecar(file), (file,), stamp, {"lists": [*lists]})

    @cached_property
    def tag_score(self) -> Product | None:
        """How right the predicted labels are; None where nothing says it."""
        if self.tags is None or self.graph.tags is None or not self.graph.scores_tags:
            return None
        folder = self.root / self.graph.score("tags", self.graph.tags)
        dataset = self.config.dataset
        numerics = {"split": dataset.splits.score, "truth": self._truth_of_tags or dataset.masks}
        key, code = self.graph.tags.key, self.code("score_tags")
        stamp = {"stage": "tags", "key": key, "code": code, "numerics": numerics}
        inputs: dict[str, Sequence[Product | Path]] = {
            "lists": self.truth_of_tags,
            "read": [self.tags],
        }
        return Product(folder / "sidecar.json", (folder / "score.json",), stamp, inputs)

    @property
    def _truth_of_tags(self) -> str | None:
        own = self.config.dataset.tagclip
        return None if own is None else own.truth

    @property
    def truth_of_tags(self) -> list[Path]:
        """Inputs of whoever scores predicted labels, beside them: a list, a file of labels."""
        truth = self._truth_of_tags
        given = [] if truth in (None, "xml") else [Path(truth)]
        return [*self.lists_of(self.config.dataset.splits.score), *given]

    def score(self, stage: str, node: Node, seed: int | None = None) -> Product:
        """A measurement."""
        folder = self.root / self.graph.score(stage, node, seed)
        names = ["score.json", "counts.parquet", *(["confidence.parquet"] * (stage == "mask"))]
        files = tuple(folder / name for name in names)
        stamp = self.score_stamp(stage, node, seed)
        read = (
            self.products(node)
            if seed is None
            else [self.predictions(node, seed, "labels" if stage == "labels" else "val")]
        )
        inputs: dict[str, Sequence[Product | Path]] = {
            "lists": self.images_of(stamp["numerics"]["split"]),
            "read": read,
        }
        return Product(folder / "sidecar.json", files, stamp, inputs)

    @cached_property
    def maps(self) -> list[Product]:
        """All shards of maps."""
        nodes = self.graph.nodes("cam", "affinity")
        return [product for node in nodes for product in self.products(node)]

    @cached_property
    def masks(self) -> list[Product]:
        """All shards of masks."""
        return [product for node in self.graph.nodes("masks") for product in self.products(node)]

    @cached_property
    def trainings(self) -> list[Product]:
        """All trainings."""
        nodes = self.graph.nodes("segmentation")
        return [self.training(node, seed) for node in nodes for seed in self.graph.seeds(node)]

    @cached_property
    def measured(self) -> list[tuple[str, Node, int | None]]:
        """What is measured: stage, node and seed, in the order of the files."""
        found = {}
        for run in self.graph.runs:
            for stage in self.graph.scores(run):
                node = self.graph.paths[run.name][GROUP_OF.get(stage, "inference")]
                for seed in run.seeds if stage in TRAINED else (None,):
                    found[self.graph.score(stage, node, seed)] = (stage, node, seed)
        return [found[folder] for folder in sorted(found)]

    @cached_property
    def scores(self) -> list[Product]:
        """All measurements."""
        return [self.score(*one) for one in self.measured]

    def measurement(self, stage: str, node: Node, seed: int | None) -> dict[str, Any]:
        """What the job that measures this is asked for, beside the files."""
        product = self.score(stage, node, seed)
        maps = stage in MAP_STAGES
        return {
            "stage": stage,
            "seed": seed,
            "precision": self.precision(node),
            "powers": self.powers(node) if maps else [],
            "sweep": self.config.evaluation.powers if maps else None,
            "lineage": node.lineage(),
            "stamp": product.stamp | {"settings": node.lineage()},
            "reads": [one.stamp for one in product.inputs["read"] if isinstance(one, Product)],
        }

    @property
    def lineages(self) -> dict[Path, dict[str, Any]]:
        """The settings.yaml of every stage's folder, with what it holds."""
        nodes = self.graph.nodes("tags", "features", *GROUPS)
        return {self.root / node.folder / "settings.yaml": node.lineage() for node in nodes}

    @property
    def tables(self) -> list[Path]:
        """Every file that the tables' job writes."""
        folder = self.root / "tables"
        runs = [folder / f"{name}.{kind}" for name in self.graph.tables for kind in LAYOUTS]
        return [*runs, *(folder / name for name in TABLES), *self.lineages]

    @cached_property
    def ranking(self) -> Pass:
        """The features that rank templates and the ranked texts, which one job can make."""
        texts = [one for one in self.graph.nodes("texts") if one.parents[0].stage == "features"]
        return Pass("ranked", None, (*self.graph.nodes("features"), *texts))

    def ranked(self, node: Node) -> dict[str, Any]:
        """What the job that makes features or ranked texts is asked for, beside the files."""
        features = node.parents[0] if node.stage == "texts" else node
        (product,) = self.products(node)
        return {
            "name": node.name,
            "ranked_by": features.name if node.stage == "texts" else None,
            "model": features.settings,
            "entry": node.settings,
            "stamp": product.stamp | {"settings": node.lineage()},
        }

    def products(self, node: Node) -> list[Product]:
        """The files of features, texts, maps or masks."""
        if node.stage == "features":
            return [self.features(node)]
        if node.stage == "texts":
            return [self.texts(node)]
        return [self.shard(node, shard) for shard in self.graph.shards]

    @property
    def texts_files(self) -> list[Product]:
        """Ranked texts, and the features that ranked them."""
        return [product for node in self.ranking.nodes for product in self.products(node)]

    @property
    def pictured(self) -> list[Product]:
        """What the report shows pictures of."""
        return [*self.maps, *self.masks, *self.val, *self.labels]

    @cached_property
    def rankings(self) -> list[Product]:
        """Ranked texts alone."""
        return [self.texts(node) for node in self.ranking.nodes if node.stage == "texts"]

    @cached_property
    def val(self) -> list[Product]:
        """The predictions of the validation split."""
        if self.config.dataset.splits.val is None:
            return []
        return [self.predictions(node, seed, "val") for node, seed in self.predicted]

    @cached_property
    def labels(self) -> list[Product]:
        """The labels that finished trainings give the images that labels are scored on."""
        return [self.predictions(node, seed, "labels") for node, seed in self.labelled]

    @cached_property
    def labelled(self) -> list[tuple[Node, int]]:
        """Which of all predictions have them beside them."""
        return [one for one in self.predicted if self.graph.labels_whole_images(one[0])]

    @cached_property
    def predicted(self) -> list[tuple[Node, int]]:
        """All predictions: the node and the seed of the training."""
        nodes = self.graph.nodes("inference")
        return [(node, seed) for node in nodes for seed in self.graph.seeds(node)]

    def shares(self, predicted: list[tuple[Node, int]]) -> list[list[tuple[Node, int]]]:
        """What each job of inference makes of some; a new row moves none of the others."""
        shares: list[list[tuple[Node, int]]] = [[] for _ in range(self.config.compute.predictors)]
        for node, seed in predicted:
            training = int(node.parents[0].key[:8], 16) + seed
            shares[training % len(shares)].append((node, seed))
        return shares

    def prediction(self, node: Node, seed: int, split: str) -> dict[str, Any]:
        """What the job that predicts a split, or makes `labels`, is asked for beside the files."""
        product = self.predictions(node, seed, split)
        texts = [one for one in product.inputs.get("texts", []) if isinstance(one, Product)]
        return {
            "segmentor": node.parents[0].settings,
            "entry": node.settings,
            "stamp": product.stamp | {"settings": node.lineage()},
            "reads": self.training(node.parents[0], seed).stamp,
            "texts": [one.stamp for one in texts],
        }

    @cached_property
    def demo_folders(self) -> list[Path]:
        """The folders of rendered scenes."""
        root = Path(self.config.dataset.root)
        return [root / name for name in ("JPEGImages", "Annotations", "SegmentationClass")]

    @cached_property
    def data(self) -> Product:
        """The rendered scenes."""
        lists = Path(self.config.dataset.root) / "ImageSets/Segmentation"
        files = (lists / "train.txt", lists / "val.txt", *self.demo_folders)
        settings = self.config.demo.model_dump() if self.config.demo else {}
        stamp = {"stage": "data", "key": settings, "code": self.code("data"), "numerics": {}}
        return Product(self.root / "data/sidecar.json", files, stamp)

    @cached_property
    def dataset_settings(self) -> DatasetSettings:
        """The data set as jobs read it: predicted labels are a file of results."""
        predicted = {} if self.tags is None else {"labels": str(self.tags.files[0])}
        return self.config.dataset.model_copy(update=predicted)

    def images_of(self, split: str | None) -> list[Path]:
        """Inputs of whoever reads a split: its list of ids, the CSV of labels, the demo's folders.

        The images of other data sets are not inputs, one by one or as a folder.
        """
        made = [] if split is None or self.tags is None else [self.tags.files[0]]
        return [*self.lists_of(split), *made]

    def lists_of(self, split: str | None) -> list[Path]:
        """As `images_of`, without labels that a job predicts."""
        if split is None:
            return []
        dataset = self.config.dataset
        listed = self.unlabelled.split_file(split)  # None: every image of a folder
        found = [] if listed is None else [listed]
        found += [] if dataset.labels in ("xml", TAGCLIP) else [Path(dataset.labels)]
        if dataset.masks is not None and dataset.masks.lower().endswith(".json"):
            found.append(Path(dataset.root) / dataset.masks)
        return found + (self.demo_folders if dataset.source == "demo" else [])

    @cached_property
    def uses(self) -> dict[str, Use]:
        """What the runs need of the images of every split, for the check before the first job."""
        dataset, splits = self.config.dataset, self.config.dataset.splits
        masks = [node.settings for node in self.graph.nodes("masks")]
        truth = any(one["source"] == "ground-truth" for one in masks)
        imports = {
            (one["folder"], one["confidences"]) for one in masks if one["source"] == "import"
        }
        refined = {
            stage: sorted(
                {
                    node.settings["sepl"]["folder"]
                    for node in self.graph.nodes(stage)
                    if node.settings.get("refinement") == "sepl"
                    and node.settings["sepl"]["folder"] is not None
                }
            )
            for stage in ("masks", "inference")
        }
        rows = [(run.texts, self.graph.settings[run.name]) for run in self.graph.runs]
        bare = {
            texts
            for texts, own in rows
            if texts and own.texts and own.texts.background == "none"
            if own.cam and ":" not in own.cam.method
            if getattr(own.cam, "target", None) in (None, "softmax")  # each method's, but gradcam's
        }
        trained = [
            own.segmentation.threshold
            for _, own in rows
            if own.segmentation and own.masks
            if own.masks.source == "import" and own.masks.confidences is not None
        ]
        given, labelled = dataset.masks is not None, self.tags is None
        found: dict[str, Use] = {}
        for split, labels, needed, others, regions in (
            (splits.prompts, labelled, False, (), ()),
            (splits.pseudo, labelled, truth, sorted(imports, key=str), refined["masks"]),
            (splits.score, labelled, given, (), ()),
            (splits.val, False, given, (), refined["inference"]),
            (splits.test, False, False, (), refined["inference"]),
        ):
            if split is not None:
                old = found.get(split, Use())
                found[split] = Use(
                    old.labels or labels,
                    old.masks or needed,
                    (*old.imports, *others),
                    (*old.regions, *regions),
                    sorted(bare) if split == splits.pseudo else (),
                    max(trained, default=0.0) if split == splits.pseudo else 0.0,
                )
        return found

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """The entries of `models` that the runs use, by name."""
        return {name: model.model_dump() for name, model in self.graph.used_models.items()}

    @property
    def attention(self) -> list[Asked]:
        """What affinities, and labels that are made online, ask of the blocks of towers."""
        found = {}
        for run in self.graph.runs:
            own = self.graph.settings[run.name]
            if own.cam is None or own.affinity is None:
                continue
            asked = method("affinity", own.affinity.method).settings
            if asked is not None and issubclass(asked, AttentionSettings):
                entry: Any = own.affinity  # which has the settings of its method
                for one in (entry, *entry.mixed):
                    where = f"affinity `{run.affinity}`"
                    tower = one.tower or own.cam.model
                    found[where, tower, one.layers, str(one.blocks)] = one.blocks
            if own.segmentation is not None and own.segmentation.labels == "online":
                where = f"segmentation `{run.segmentation}`: online.dynamic_layers"
                if layers := getattr(own.segmentation.online, "dynamic_layers", None):
                    found[where, own.cam.model, layers, ""] = None
        return [(*key[:3], blocks) for key, blocks in found.items()]

    @property
    def prompts(self) -> list[Prompts]:
        """What each CLIP has to encode, by the cell or entry that names it; for the check."""
        config, found = self.config, {}
        for run in self.graph.runs:
            own = self.graph.settings[run.name]
            head = own.segmentation.text_head if own.segmentation is not None else None
            if own.texts is not None and (clip := own.cam or head) is not None:
                found[f"texts `{run.texts}`", clip.model] = own.texts
        if (tagged := config.dataset.tagclip) is not None:
            found[f"texts `{tagged.texts}`", tagged.model] = config.texts[tagged.texts]
        return [(*key, *self._sentences(texts)) for key, texts in found.items()]

    def _sentences(self, texts: Texts) -> tuple[list[str], list[str]]:
        """The templates of texts, and all words that are put into them."""
        words, chosen = self.graph.vocabulary, texts.template == "sharpest"
        lists = [texts.names, *([texts.ranked_names] if chosen and texts.ranked_names else [])]
        named = [name for one in lists for name in words.texts(one).values()]
        templates = read_templates(Path(texts.templates)) if chosen else templates_of(texts)
        return templates, list(dict.fromkeys([*named, *words.background(texts.background)]))

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """What each training is told, by the cell that names it; for the check."""
        return {
            f"segmentation `{run.segmentation}`": path["segmentation"].settings
            for run in self.graph.runs
            if "segmentation" in (path := self.graph.paths[run.name])
        }

    @property
    def check_stamp(self) -> dict[str, Any]:
        """What the check depends on besides its files."""
        left_out = {"splits", "train_negatives", "tagclip", "unseen"}
        dataset = self.config.dataset.model_dump(exclude=left_out)
        uses = {split: asdict(use) for split, use in self.uses.items()}
        # No towers and trainings: one more would read all images again, and its own job says it.
        state = {split: self.graph.state(split) for split in uses}
        return {"code": self.code("check"), "dataset": dataset, "uses": uses, "state": state}

    @property
    def shown(self) -> dict[str, Any]:
        """Which images the report shows: the split that they are of, and their number."""
        splits = self.config.dataset.splits
        count = self.config.evaluation.panels
        return {"split": splits.score or splits.pseudo, "count": count}

    def images_of_inference(self, split: str) -> list[Path]:
        """Inputs of whoever predicts a split, and with `val` the images that are shown."""
        found = self.images_of(self.split_of(split))
        found += self.images_of(self.shown["split"]) if split == "val" else []
        return list(dict.fromkeys(found))

    @cached_property
    def dataset(self):
        """The images."""
        return open_dataset(self.dataset_settings.model_dump())

    @property
    def unlabelled(self):
        """The images before labels are predicted, if they are."""
        return self.graph.unlabelled

    def variants(self, one: Pass, nodes: list[Node]) -> dict[str, Any]:
        """What a pass is asked for, in words that its script understands.

        Returns:
            cam: settings that all cams of the pass share;
            ranked: whether its texts are those of a file;
            texts: by name, a template list with names and words, or None for those of a file;
            cams: by name, texts, settings, affinities (by name, settings) and words;
            towers: entries of `models` that methods ask for;
            lineages and stamps: of the nodes wanted, by name.
        """
        texts: dict[str, Any] = {}
        cams: dict[str, Any] = {}
        for node in nodes:
            cam = cam_of(node)
            source = cam.parents[0]
            texts[source.name] = None if one.texts is not None else texts_of(source)
            wanted = cams.setdefault(
                cam.name,
                {
                    "texts": source.name,
                    "cam": cam.settings,
                    "affinities": {},
                    **words_of(source),
                },
            )
            if node.stage == "affinity":
                wanted["affinities"][node.name] = node.settings
        return {
            "cam": one.cam,
            "ranked": one.texts is not None,
            "texts": texts,
            "cams": cams,
            "towers": {name: one for node in nodes for name, one in node.towers.items()},
            "nodes": [node.name for node in nodes],
            "stamps": [self.stamp(node) | {"settings": node.lineage()} for node in nodes],
        }

    def seen(self, masks: Node) -> dict[str, Any] | None:
        """What the refinement of masks may ask for; None of masks that are taken as they are.

        Returns:
            names and background_names: of the texts of the maps;
            cam, texts and towers, as of `variants`, if it may ask for a tower.
        """
        cam, texts = masks.parent("cam"), masks.parent("texts")
        if cam is None or texts is None:
            return None
        found: dict[str, Any] = {**words_of(texts)}
        if TOWERS in masks.methods:
            own = None if ranked_texts(masks) else texts_of(texts)
            towers = cam.towers | masks.towers  # its cam may be asked for maps of other views
            found |= {"cam": cam.settings, "texts": own, "towers": towers}
        return found

    def wanted(self, product: Product) -> bool:
        """Whether a job has to make it: something of it is missing, or it is stale."""
        there = all((self.store / path).exists() for path in (product.sidecar, *product.files))
        return not there or self.stale(product)

    def stale(self, product: Product) -> bool:
        """Whether other settings, other code or other inputs have made what is there.

        Of files without their sidecar nobody knows.
        """
        if not (self.store / product.sidecar).is_file():
            return any((self.store / path).is_file() for path in product.files)
        if not self.fits(product) or any(map(self._emptied, product.files)):
            return True
        return self._of_other_inputs(product)

    def check(self, product: Product) -> None:
        """Make sure that a command may read a product.

        Raises:
            InputError: its sidecar does not fit the plan, or its files not it (`sidecar.check`), or
                it was made of lists, labels or images that are others now, as far as they are here.
        """
        check_sidecar(self.store / product.sidecar, product.stamp)
        if self._outdated(product):
            raise InputError(
                f"{product.sidecar}: its lists, labels or images have changed since; {RUN}"
            )

    def _outdated(self, product: Product) -> bool:
        """Whether a product, or one that it is made from, is of other inputs than are here."""
        if not (self.store / product.sidecar).is_file():
            return False
        made = self._record(self.store / product.sidecar)["stamp"].get("images")
        if made != product.stamp.get("images") and self.dataset.image_folder.is_dir():
            return True
        inputs = [one for some in product.inputs.values() for one in some]
        return self._of_other_inputs(product) or any(
            self._outdated(one) for one in inputs if isinstance(one, Product)
        )

    def _of_other_inputs(self, product: Product) -> bool:
        """Whether the inputs of a product that are there are others than its sidecar says."""
        made = self._record(self.store / product.sidecar)["inputs"]
        for name, inputs in product.inputs.items():
            digests = [one for one in map(self._digest, inputs) if one is not None]
            if len(digests) == len(inputs) and made.get(name) != combined(digests):
                return True
        return False

    def _emptied(self, path: Path) -> bool:
        """Whether a power cut or the like has left a file without its content."""
        path = self.store / path
        return path.is_file() and not path.stat().st_size

    def _digest(self, one: Product | Path) -> str | None:
        """The digest of an input, that of a product by its sidecar; None where it is not there."""
        path = self.store / (one.sidecar if isinstance(one, Product) else one)
        if not path.exists():
            return None
        if isinstance(one, Path):
            return digest_of(path)
        try:
            record = self._record(path)
        except InputError:
            return None
        names = {file: name for name, file in record["files"].items()}
        return record["outputs"].get(names.get(one.files[0].name))

    def fits(self, product: Product) -> bool:
        """Whether a sidecar is of the plan; whether the files fit it is for their reader to see."""
        try:
            made = self._record(self.store / product.sidecar)["stamp"]
        except InputError:
            return False
        return same(made, product.stamp)

    @staticmethod
    def _record(path: Path) -> dict[str, Any]:
        """A sidecar, read once while it does not change."""
        if not path.is_file():
            return read_sidecar(path)  # says that it is missing
        return _read(path, path.stat().st_mtime_ns)

    def current(self, one: Pass) -> list[Node]:
        """The nodes of a pass of which every file is there and was made as planned."""
        return [node for node in one.nodes if not any(map(self.wanted, self.products(node)))]


@cache
def _read(path: Path, changed: int) -> dict[str, Any]:
    return read_sidecar(path)


def make_plan(
    content: dict,
    source: str = "config",
    *,
    root: Path | None = None,
    scripts: Path | None = None,
    store: Path = Path(),
) -> Plan:
    """Check a config and plan its runs; see `Plan` for the other arguments.

    Raises:
        InputError: anything that cannot be used, or results of an earlier version.
    """
    config: Config = load_config(content, source)
    graph = Graph(config, read_runs(config))
    if old := [str(path) for path in old_results(store / graph.root)]:
        raise InputError(
            f"{', '.join(old)}: results of an earlier version of this suite; move {graph.root} "
            "away or delete it"
        )
    plan = Plan(graph, root, scripts=scripts, store=store)
    plan.dataset.check_lists()
    return plan
