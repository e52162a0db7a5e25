"""Runs as paths through a graph of stages, and the one place that knows where results lie.

A stage of a run is a node: its settings, and the nodes that it is made from. Its folder is a
readable label and 8 hex digits of both, defaults left out. So runs that agree up to a stage share
its files, whatever their entries are called and whatever their order. What decides no
bytes (scoring, workers, the device) is in no key.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import methods_of
from clip_wsss.core.names import asks_for_towers, models_of, named_by
from clip_wsss.core.segmentors import read_segmentor_file
from clip_wsss.core.settings import Settings, differing
from clip_wsss.core.shards import shard_ids, shard_names
from clip_wsss.core.spelling import unknown
from clip_wsss.data.datasets import Dataset, open_dataset
from clip_wsss.data.vocabulary import read_vocabulary
from clip_wsss.labels.online import resolved
from clip_wsss.models.code import check_files, code_of, has_texts
from clip_wsss.prompts.texts import read_templates
from clip_wsss.runs.config import GROUPS, TEXT_MODEL
from clip_wsss.runs.contents import contents_of, file_identity, folder_digest, model_identity
from clip_wsss.runs.nodes import (
    TEACHER,
    TEXT_HEAD,
    TOWERS,
    Node,
    Pass,
    cam_of,
    has_final_labels,
    has_text_head,
    is_ranked,
    make_node,
    ranked_texts,
    texts_of,
)
from clip_wsss.runs.settings import (
    UNSAID,
    Affinity,
    Cam,
    Config,
    Inference,
    Masks,
    Model,
    Segmentation,
    Texts,
)
from clip_wsss.runs.stages import GROUP_OF
from clip_wsss.runs.table import Run, RunSettings, run_settings

CHECK = "data/check.json"  # what the check of the data says, below the results folder

RANKING = "sharpness.csv"  # in the folder of ranked texts

# The files of results before stages were a graph.
OLD = ("prompts", "cams", "metrics", "costs")


class Graph:
    """The stages of all runs.

    Args:
        config: checked.
        runs: rows of its tables.

    Raises:
        InputError: a file that an entry names cannot be read, or two stages with one folder.
    """

    def __init__(self, config: Config, runs: Sequence[Run]):
        self.config, self.runs = config, list(runs)
        self._known: dict[tuple[str, bool], dict[str, str]] = {}
        self._states: dict[tuple, str] = {}
        self.vocabulary = read_vocabulary(config.dataset.vocabulary)
        self.settings = {run.name: run_settings(config, run) for run in self.runs}
        self.tags = self._tags()
        self.images = self._images(config.dataset.splits.pseudo)
        self.paths = {run.name: self._path(self.settings[run.name]) for run in self.runs}
        self._by_folder = {} if self.tags is None else {self.tags.folder: self.tags}
        for path in self.paths.values():
            texts = path.get("texts")
            ranked = [texts.parents[0]] if texts is not None and is_ranked(texts) else []
            for node in (*ranked, *path.values()):
                known = self._by_folder.setdefault(node.folder, node)
                if known.key != node.key:
                    raise InputError(
                        f"runs: two stages of different settings would both be {node.folder}; "
                        "change any setting of one of them"
                    )
        for name, model in self.used_models.items():
            check_files(model.model_dump(), f"models.{name}")

    @property
    def root(self) -> Path:
        """The folder of the results."""
        return Path("results") / self.config.dataset.name

    @cached_property
    def shards(self) -> list[str]:
        """Names of the shards."""
        return shard_names(self.config.compute.shards)

    @property
    def tables(self) -> list[str]:
        """Names of the tables of runs, in the order of the config."""
        return list(dict.fromkeys(run.table for run in self.runs))

    def nodes(self, *stages: str) -> list[Node]:
        """The different nodes of some stages, in the order of their folders."""
        return [node for _, node in sorted(self._by_folder.items()) if node.stage in stages]

    def node(self, stage: str, name: str) -> Node:
        """The node with a folder's name."""
        if f"{stage}/{name}" not in self._by_folder:
            known = [node.name for node in self.nodes(stage)]
            raise InputError(f"{stage}/{name}: {unknown('folder', name, known)}")
        return self._by_folder[f"{stage}/{name}"]

    def models(self, run: Run) -> dict[str, Model]:
        """The entries of `models` that the maps and masks of a run are made with, by name."""
        own = self.settings[run.name]
        head = own.segmentation.text_head if own.segmentation else None
        used = (own.cam, own.affinity, own.masks, head)
        names = {name for one in used if one is not None for name in models_of(one).values()}
        if self.config.dataset.tagclip is not None:
            names.add(self.config.dataset.tagclip.model)
        return {name: self.config.models[name] for name in sorted(names)}

    @cached_property
    def used_models(self) -> dict[str, Model]:
        """The entries of `models` that the runs are made with, by name."""
        names: set[str | None] = {name for run in self.runs for name in self.models(run)}
        for settings in self.settings.values():
            if (entry := settings.segmentation) is not None:
                names |= set(models_of(entry).values())
                if not segmentor_of(entry):
                    names.add(_backbone(read_segmentor_file(entry.segmentor)))
        return {name: self.config.models[name] for name in sorted(filter(None, names))}

    def seeds(self, node: Node) -> list[int]:
        """Seeds of a training or of its predictions, of all runs together."""
        found = {
            seed for run in self.runs if node in self.paths[run.name].values() for seed in run.seeds
        }
        return sorted(found)

    @cached_property
    def passes(self) -> dict[str, Pass]:
        """The forward passes that give all maps, by name."""
        groups: dict[str, list[Node]] = {}
        texts: dict[str, Node | None] = {}
        for node in self.nodes("cam", "affinity"):
            cam = cam_of(node)
            ranked = ranked_texts(cam)
            trunk = {key: cam.identity.get(key) for key in ("model", *_TRUNK)}
            content = [trunk, ranked.key if ranked else None]
            text = json.dumps(content, sort_keys=True)
            name = hashlib.sha256(text.encode()).hexdigest()[:8]
            groups.setdefault(name, []).append(node)
            texts[name] = ranked
        return {
            name: Pass(name, texts[name], tuple(nodes)) for name, nodes in sorted(groups.items())
        }

    def shard_file(self, node: Node, shard: str) -> str:
        """A shard of maps (npz) or masks (zip)."""
        return f"{node.folder}/{shard}.{'zip' if node.stage == 'masks' else 'npz'}"

    def shard_files(self, node: Node) -> list[str]:
        """All shards of maps or masks."""
        return [self.shard_file(node, shard) for shard in self.shards]

    def training(self, node: Node, seed: int) -> str:
        """The folder of a training: checkpoint.pth, log.csv, checkpoint.json."""
        return f"{node.folder}/seed{seed}"

    def predictions(self, node: Node, seed: int, split: str) -> str:
        """The archive of the predictions of a split: val, test, or shown (for pictures).

        Beside them lie the `labels` that an online training gives its own images in the end.
        """
        return f"{node.folder}/seed{seed}/{split}.zip"

    def score(self, stage: str, node: Node, seed: int | None = None) -> str:
        """The folder of a measurement: score.json, counts.parquet, sidecar.json, …."""
        return f"score/{stage}/{node.name}" + ("" if seed is None else f"/seed{seed}")

    def scores(self, run: Run) -> dict[str, list[str]]:
        """The score.json files of a run, stage by stage; those of a training have one a seed."""
        dataset, path = self.config.dataset, self.paths[run.name]
        found: dict[str, list[str]] = {}
        if dataset.masks is not None and dataset.splits.score is not None:
            for stage, group in GROUP_OF.items():
                node = path.get(group)
                if node is not None and node.settings.get("source") != "ground-truth":
                    found[stage] = [f"{self.score(stage, node)}/score.json"]
        if (node := path.get("inference")) is not None:
            val = dataset.masks is not None and dataset.splits.val is not None
            for stage in ("labels",) * self.labels_whole_images(node) + ("segmentation",) * val:
                found[stage] = [f"{self.score(stage, node, seed)}/score.json" for seed in run.seeds]
        return found

    @property
    def scores_tags(self) -> bool:
        """Whether labels are predicted, and there are true ones of the images that are scored."""
        dataset = self.config.dataset
        known = dataset.tagclip is not None and (dataset.tagclip.truth or dataset.masks)
        return bool(known) and dataset.splits.score is not None

    def labels_whole_images(self, inference: Node) -> bool:
        """Whether the labels of a finished training are made: where they can be, and be scored."""
        dataset = self.config.dataset
        scored = dataset.masks is not None and dataset.splits.score is not None
        return scored and has_final_labels(inference)

    def folders(self) -> set[str]:
        """All folders of stages and scores that some run uses."""
        used = {node.folder for node in self._by_folder.values()}
        if self.scores_tags:
            assert self.tags is not None
            used.add(self.score("tags", self.tags))
        for run in self.runs:
            for files in self.scores(run).values():
                used |= {str(Path(file).parent) for file in files}
        for node in self.nodes("segmentation", "inference"):
            used |= {self.training(node, seed) for seed in self.seeds(node)}
        return used

    def _images(self, split: str | None) -> Node:
        """The data set; of the user's own with the ids of a split, which need not be a list."""
        dataset = self.config.dataset
        identity: dict[str, Any] = {
            "classes": list(self.vocabulary.classes),
            "labels": "xml" if dataset.labels == "xml" else "csv",
            **dataset.model_dump(
                include={"size", "on_bad_image", "orientation", "negatives"}, exclude_defaults=True
            ),
        }
        if split is not None and self._own:
            identity["ids"] = self._ids(split)
        elif split is not None:
            identity["split"] = split
        parents = () if self.tags is None else (self.tags,)
        return make_node("images", "images", identity, parents, {})

    def _tags(self) -> Node | None:
        """The labels predicted of all images that need some; None where they are given."""
        dataset, own = self.config.dataset, self.config.dataset.tagclip
        if own is None:
            return None
        named = (dataset.splits.pseudo, dataset.splits.prompts, dataset.splits.score)
        splits = list(dict.fromkeys(filter(None, named)))
        model = self._model(self.config.models[own.model])
        texts = self._texts(self.config.texts[own.texts], model)
        changed = differing(own, ("model", "texts", "truth"))
        identity: dict[str, Any] = {
            **changed,
            "method": "tagclip",
            "model": model.identity,
            "texts": texts.identity,
            **dataset.model_dump(
                include={"size", "on_bad_image", "orientation"}, exclude_defaults=True
            ),
        }
        identity["images"] = [self._ids(split) if self._own else split for split in splits]
        settings = {**own.model_dump(), "model": model.settings, "texts": texts_of(texts)}
        label = "+".join(["tagclip", model.label, texts.label, *_flat(changed)])
        return make_node("tags", label, identity, (), {**settings, "splits": splits})

    @property
    def _own(self) -> bool:
        """Whether the data are the user's own, whose lists are there."""
        return self.config.dataset.source in ("folder", "images")

    def _ids(self, split: str) -> str:
        """A digest of the ids of a split of the user's own data.

        Without the images, so that one that is replaced costs itself alone.
        """
        ids = "\n".join(self.unlabelled.ids(split))
        return hashlib.sha256(ids.encode()).hexdigest()

    def truth(self, split: str | None) -> dict[str, str]:
        """What the ground truth of a split is; of the user's own data also by its files."""
        masks = self.config.dataset.masks
        if masks is None or split is None or not self._own:
            return {} if masks is None else {"truth": masks}
        return {"truth": masks, "truth_files": self._state((split,), truth=True)}

    def state(self, split: str) -> str | None:
        """What the images and the ground truth of a split of the user's own data are."""
        return f"{self._state((split,))} {self.truth(split)}" if self._own else None

    def image_files(self, *splits: str | None, shard: str | None = None) -> dict[str, str]:
        """What the images of splits of the user's own data are, or those of one shard of all."""
        return {"images": self._state(splits, shard=shard)} if self._own else {}

    def _state(
        self, splits: Sequence[str | None], truth: bool = False, shard: str | None = None
    ) -> str:
        key = tuple(splits), truth, shard
        if key not in self._states:
            lengths: dict[str, str] = {}
            for split in filter(None, splits):
                lengths |= self._lengths(split, truth)
            lines = [*lengths.values()]
            own = lines if shard is None else shard_ids(lines, shard)
            self._states[key] = hashlib.sha256("\n".join(own).encode()).hexdigest()
        return self._states[key]

    def _lengths(self, split: str, truth: bool) -> dict[str, str]:
        """Those of the data set, looked at once a plan: every shard is a part of them."""
        if (split, truth) not in self._known:
            self._known[split, truth] = self.unlabelled.lengths(split, truth)
        return self._known[split, truth]

    @cached_property
    def unlabelled(self) -> Dataset:
        """The images before labels are predicted, if they are."""
        return open_dataset(self.config.dataset.model_dump())

    def _path(self, settings: RunSettings) -> dict[str, Node]:
        """The nodes of a run by group."""
        path: dict[str, Node] = {}
        training = settings.segmentation
        named = settings.cam or (training.text_head if training else None)
        if settings.texts is not None and named is not None:
            model = self._model(self.config.models[named.model])
            path["texts"] = self._texts(settings.texts, model)
            if settings.cam is not None:
                path["cam"] = self._cam(settings.cam, model, path["texts"])
        if settings.affinity is not None:
            path["affinity"] = self._affinity(settings.affinity, path["cam"])
        if settings.masks is not None:
            path["masks"] = self._masks(settings.masks, path.get("affinity") or path.get("cam"))
        if training is not None:
            texts = path["texts"] if training.text_head is not None else None
            path["segmentation"] = self._segmentation(training, path["masks"], texts)
        if settings.inference is not None:
            node = self._inference(settings.inference, path["segmentation"])
            head = [TEXT_HEAD] if has_text_head(path["segmentation"]) else []
            methods = (*node.methods, *segmentor_of(training), *head)
            path["inference"] = replace(node, methods=methods)
        return path

    def _model(self, model: Model) -> Node:
        identity = model_identity(model)
        # The name of a file says nothing that counts: a copy of it has the same folder.
        shape = identity.get("architecture", "clip")
        if isinstance(shape, dict):
            vision = shape.get("vision_cfg") or shape.get("vision_config") or {}
            shape = f"clip-{vision.get('width')}x{vision.get('layers')}"
        return make_node("model", str(shape), identity, (), model.model_dump())

    def _features(self, model: Node) -> Node:
        split = self.config.dataset.splits.prompts
        if split is None:
            raise InputError("dataset.splits.prompts: null, but template: sharpest ranks by it")
        parents = (model, self._images(None))
        node = make_node("features", model.label, {"split": split}, parents, model.settings)
        return replace(node, methods=code_of(model.settings))

    def _texts(self, texts: Texts, model: Node) -> Node:
        names = self.vocabulary.texts(texts.names)
        ranked = self.vocabulary.texts(texts.ranked_names or texts.names)
        words = list(self.vocabulary.background(texts.background))
        identity: dict[str, Any] = {
            "names": {key: name for key, name in names.items() if key != name},
            "background": words,
        }
        parents = [model]
        if texts.template == "sharpest":
            parents = [self._features(model)]
            ranking = texts.model_dump(include={"score", "spread"}, exclude_defaults=True)
            identity |= {
                "template": "sharpest",
                "templates": read_templates(Path(texts.templates)),
                **ranking,
            }
            if ranked != names:
                identity["ranked_names"] = {k: name for k, name in ranked.items() if k != name}
            label = "sharpest"
        else:
            identity["template"] = templates_of(texts)
            first, *more = identity["template"]
            label = f"{1 + len(more)}-templates" if more else first.replace("{}", "X")
        label += f"+{len(identity['names'])}-renamed" if identity["names"] else ""
        label += f"+{len(words)}-background"
        spread = {"score": texts.score, "spread": texts.spread}
        settings = {**identity, **spread, "names": names, "ranked_names": ranked}
        return make_node("texts", label, identity, parents, settings)

    def _cam(self, cam: Cam, model: Node, texts: Node) -> Node:
        own, shown, towers = self._with_towers(cam)
        # GradCAM goes by its target alone, which is always said.
        chosen = "target" if cam.method == "gradcam" else "method"
        identity = {**own, chosen: getattr(cam, chosen), "model": model.identity}
        label = "+".join([model.label, _short(identity[chosen]), *_flat(shown, (chosen,))])
        settings = {**cam.model_dump(), "model": model.settings}
        node = make_node("cam", label, identity, (texts, self.images), settings)
        return replace(node, methods=_code(cam, towers, model.settings), towers=towers)

    def _affinity(self, affinity: Affinity, cam: Node) -> Node:
        own, shown, towers = self._with_towers(affinity)
        label = "+".join([_short(affinity.method), *_flat(shown, ("method",))])
        identity = {**own, "method": affinity.method}
        node = make_node("affinity", label, identity, (cam,), affinity.model_dump())
        return replace(node, methods=(*_code(affinity, towers), *cam.methods), towers=towers)

    def _with_towers(self, entry: Cam | Affinity | Masks) -> tuple[dict, dict, dict[str, dict]]:
        """Settings that are not at their defaults, with what the towers and folders in them hold.

        Returns:
            The settings for the key, with the contents of the towers and folders, not their names;
            those for the label, with what the towers are; and the entries of `models`, by name.
        """
        is_cam = isinstance(entry, Cam)
        left_out = {"model"} if is_cam else {"scoring"}  # which decides no bytes
        own = differing(entry, left_out)
        shown, towers = copy.deepcopy(own), {}
        for key, name in models_of(entry).items():
            if is_cam and key == "model":
                continue
            model = self.config.models[name]
            towers[name] = model.model_dump()
            made = self._model(model)
            _put(own, key, made.identity)
            _put(shown, key, made.label)
        _with_folders(entry, own, shown)
        return own, shown, towers

    def _masks(self, masks: Masks, maps: Node | None) -> Node:
        if masks.source == "maps" and maps is not None:
            own, shown, towers = self._with_towers(masks)
            label = "argmax" if masks.refinement == "none" else _short(masks.refinement)
            label = "+".join([label, *_flat(shown, ("refinement",))])
            identity = {**own, "refinement": masks.refinement}
            made = make_node("masks", label, identity, (maps,), masks.model_dump())
            asked = (TOWERS, *cam_of(maps).methods) if asks_for_towers(masks) else ()
            return replace(made, methods=(*_code(masks, towers), *asked), towers=towers)
        identity, label = masks.used(), masks.source
        if masks.source == "ground-truth":
            identity["masks"] = self.config.dataset.masks
            if files := self.truth(self.config.dataset.splits.pseudo).get("truth_files"):
                identity["files"] = files
        elif masks.source == "import":
            identity = {"source": "import", "folder": folder_digest(str(masks.folder))}
            if masks.confidences is not None:
                identity["confidences"] = folder_digest(masks.confidences, "masks.confidences")
        return make_node("masks", label, identity, (self.images,), masks.model_dump())

    def _segmentation(self, entry: Segmentation, masks: Node, texts: Node | None) -> Node:
        built = segmentor_of(entry)
        segmentor = {} if built else read_segmentor_file(entry.segmentor)
        head = segmentor.get("model", {}).get("decode_head") or {}
        own = differing(entry, ("segmentor", "init"))
        own.pop("mu", None)
        if entry.threshold != entry.model_copy(update={"mu": None}).threshold:
            own["mu"] = entry.threshold
        init = entry.init or segmentor.get("init")
        left_out = {key for key, unsaid in UNSAID.items() if getattr(entry, key) == unsaid}
        settings = {**entry.model_dump(exclude=left_out), "mu": entry.threshold}
        if (clip := self._segmentor_clip(segmentor, entry.segmentor)) is not None:
            settings["clip"] = clip.model_dump()
            segmentor["model"]["backbone"]["model"] = model_identity(clip)
        for key, name in models_of(entry).items():  # of a function that builds a segmentor
            if key == TEXT_MODEL:
                continue
            settings["clip"] = self.config.models[name].model_dump()
            _put(own, key, model_identity(self.config.models[name]))
        if texts is not None:
            own["text_head"].pop("model")  # the texts are of it
            settings["text_head"] = self._text_head(entry, texts)
        shown = copy.deepcopy(own)
        _with_folders(entry, own, shown)
        rest = {key: value for key, value in segmentor.items() if key != "init"}
        shape = entry.segmentor if built else contents_of(rest)
        identity = {**own, "loss": entry.loss, "segmentor": shape}
        if init not in (None, "random"):
            identity["init"] = file_identity(init)
        if entry.seen_only:
            identity["unseen"] = sorted(self.config.dataset.unseen)
        online = ["online"] if entry.labels == "online" else []
        if self.config.dataset.train_negatives:
            if online:
                raise InputError(
                    "dataset.train_negatives: labels: online needs images with a class; set it to "
                    "false"
                )
            identity["train_negatives"] = True
        extra = _flat(shown, ("loss", "iterations", "labels"))
        kind = _short(entry.segmentor) if built else str(head.get("type", "segmentor"))
        by_texts = [] if texts is None else ["texts"]
        taught = [one for one in ("glm", "plm") if one in own.get("teacher", {})]
        label = "+".join([kind, _short(entry.loss), *online, *by_texts, *taught, *extra])
        if online:
            settings["online"] = self._online(entry, masks)
        kinds = ("loss", "segmentor", *(["labels", "decoder"] if online else []))
        methods = tuple(one.target for one in methods_of(entry, *kinds))
        if online and "affinity" in settings["online"]["labels"]:  # which the maker calls itself
            affinity = masks.parent("affinity")
            assert affinity is not None  # as below
            methods += affinity.methods
            settings["online"] |= {"towers": affinity.towers} if affinity.towers else {}
        parents = (masks,) if texts is None else (masks, texts)
        methods += () if texts is None else (TEXT_HEAD, *texts.methods)
        methods += () if entry.teacher is None else (TEACHER,)
        node = make_node("segmentation", label, identity, parents, settings)
        return replace(node, methods=methods)

    def _text_head(self, entry: Segmentation, texts: Node) -> dict[str, Any]:
        """What a training with a text head takes from its row."""
        head = entry.text_head
        assert head is not None  # which these texts are for
        trunk = Cam(model=head.model).model_dump(include=set(_TRUNK))  # as texts are encoded
        return {
            **head.model_dump(exclude={"model"}),
            "clip": {**self.config.models[head.model].model_dump(), **trunk},
            "texts": None if is_ranked(texts) else texts_of(texts),
        }

    def _inference(self, entry: Inference, training: Node) -> Node:
        own, shown = differing(entry), differing(entry)
        _with_folders(entry, own, shown)
        refined = [] if entry.refinement == "none" else [_short(entry.refinement)]
        label = "+".join([*refined, *_flat(shown, ("refinement",))]) or "plain"
        identity = {**own, "refinement": entry.refinement}
        node = make_node("inference", label, identity, (training,), entry.model_dump())
        return replace(node, methods=tuple(one.target for one in methods_of(entry)))

    def _segmentor_clip(self, segmentor: dict[str, Any], path: str) -> Model | None:
        """The entry of `models` that the backbone of a segmentor names, if it names one."""
        name = _backbone(segmentor)
        if name is None:
            return None
        if name not in self.config.models:
            message = unknown("entry of models", str(name), self.config.models)
            raise InputError(f"{path}: model.backbone.model: {message}")
        model = self.config.models[name]
        if not has_texts(model.model_dump()):
            raise InputError(f"{path}: model.backbone.model: `{name}` must be a CLIP of open_clip")
        return model

    def _online(self, entry: Segmentation, masks: Node) -> dict[str, Any]:
        """What an online training takes from the cells of its row; masks are not its input."""
        cam, affinity, texts = (masks.parent(stage) for stage in ("cam", "affinity", "texts"))
        assert cam is not None  # the table has checked these
        assert affinity is not None
        assert texts is not None
        trunk = {key: cam.settings[key] for key in _TRUNK}
        return {
            "clip": {**cam.settings["model"], **trunk},
            "texts": None if is_ranked(texts) else texts_of(texts),
            "split": self.config.dataset.splits.pseudo,
            **resolved(
                entry.online,
                {"cam": cam.settings, "affinity": affinity.settings, "masks": masks.settings},
            ),
        }


def _backbone(segmentor: dict[str, Any]) -> str | None:
    """The entry of `models` that a segmentor's file names."""
    return (segmentor.get("model", {}).get("backbone") or {}).get("model")


_TRUNK = ("precision", "position_embedding")


def _with_folders(entry: Settings, own: dict, shown: dict) -> None:
    """Replace the folders in settings for the key and for the label by what they hold."""
    for key, folder in named_by(entry, "folder").items():
        where = f"{type(entry).__name__.lower()}.{key}"
        digest = folder_digest(folder, where, (".png", ".npz"))
        _put(own, key, digest)
        _put(shown, key, digest[:8])


def _put(settings: Any, key: str, value: Any) -> None:
    """Set what lies at a dotted key; a place in a list is a number."""
    *parents, last = key.split(".")
    for parent in parents:
        settings = (
            settings[int(parent)] if isinstance(settings, list) else settings.setdefault(parent, {})
        )
    settings[last] = value


def _code(
    entry: Settings, towers: Mapping[str, dict], clip: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """The functions whose code the maps or masks of an entry depend on; `clip` makes the maps."""
    models = [*towers.values(), *([] if clip is None else [clip])]
    methods = [one.target for one in methods_of(entry)]
    return (*methods, *dict.fromkeys(code for model in models for code in code_of(model)))


def _short(name: str) -> str:
    """The name of a method without its module."""
    return name.rpartition(":")[2]


def segmentor_of(entry: Segmentation | None) -> tuple[str, ...]:
    """The function that builds a segmentor, where it is not a file."""
    return () if entry is None else tuple(one.target for one in methods_of(entry, "segmentor"))


def _flat(settings: dict, leave_out: Sequence[str] = (), prefix: str = "") -> list[str]:
    """`key=value` of nested settings, by the last part of the key."""
    found = []
    for key, value in sorted(settings.items()):
        if not prefix and key in leave_out:
            continue
        inner = value if isinstance(value, list) else [value]
        if inner and all(isinstance(one, dict) for one in inner):
            for one in inner:
                found += _flat(one, (), f"{prefix}{key}.")
        else:
            found.append(f"{key}={_word(value)}")
    return found


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(map(_word, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def templates_of(texts: Texts) -> list[str]:
    """The templates that an entry names outright: one, several, or a line of its list."""
    if isinstance(texts.template, list):
        return list(texts.template)
    if isinstance(texts.template, str):
        return [texts.template]
    listed = read_templates(Path(texts.templates))
    if not 1 <= texts.template <= len(listed):
        raise InputError(
            f"template: {texts.template} must be the number of a line of {texts.templates}, which "
            f"has {len(listed)} templates, counted from 1"
        )
    return [listed[texts.template - 1]]


def old_results(root: Path) -> Iterator[Path]:
    """Folders of a version in which stages were not a graph."""
    return (root / name for name in OLD if (root / name).is_dir())


def described(graph: Graph) -> list[tuple[str, str, str]]:
    """Row, stage and folder of every stage of every run, for the index."""
    return [
        (run.name, group, graph.paths[run.name][group].folder)
        for run in graph.runs
        for group in GROUPS
        if group in graph.paths[run.name]
    ]
