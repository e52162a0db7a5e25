"""One stage of a run with everything before it, and what can be asked of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clip_wsss.core.methods import method

# What masks are made with, whose refinement may ask for a tower.
TOWERS = "clip_wsss.masks.towers:Towers"
# What trainings with a text head, and their predictions, load beside the others.
TEXT_HEAD = "clip_wsss.segmentation.text_head:TextHead"
# What trainings that a CLIP teaches load, and their predictions do not.
TEACHER = "clip_wsss.segmentation.teacher.segmentor:TeacherSegmentor"

LABEL = 60  # letters of a label, at most


@dataclass(frozen=True)
class Node:
    """One stage with its settings and everything before it.

    Attributes:
        stage: a group of the config, or `images`.
        label: readable, made from the settings; says nothing that the key does not.
        identity: the settings that decide its bytes, without those at their default.
        parents: the nodes that it is made from.
        settings: everything that its job needs to know.
        methods: the functions that its settings name, whose code its bytes depend on.
        towers: entries of `models` that its methods ask for, by name.
    """

    stage: str
    label: str
    identity: dict[str, Any] = field(repr=False, compare=False)
    parents: tuple[Node, ...] = field(repr=False, compare=False)
    settings: dict[str, Any] = field(repr=False, compare=False)
    key: str = ""  # SHA-256 of stage, identity and the keys of the parents
    methods: tuple[str, ...] = field(default=(), repr=False, compare=False)
    towers: dict[str, dict] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.label}-{self.key[:8]}"

    @property
    def folder(self) -> str:
        """Its folder, relative to the results."""
        return f"{self.stage}/{self.name}"

    def parent(self, stage: str) -> Node | None:
        """The node of a stage that this one is made from, directly or not."""
        for one in self.parents:
            found = one if one.stage == stage else one.parent(stage)
            if found is not None:
                return found
        return None

    def lineage(self) -> dict[str, Any]:
        """Settings of this and of all stages before it, as settings.yaml holds them."""
        found: dict[str, Any] = {}
        for one in self.parents:
            found |= one.lineage()
        return found | {self.stage: self.identity}


def make_node(
    stage: str, label: str, identity: dict, parents: Sequence[Node], settings: dict
) -> Node:
    """A node without methods, with its key, and its label as a folder can be called."""
    content = {"stage": stage, "settings": identity, "from": [one.key for one in parents]}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()
    # No comma: Snakemake separates the wildcards of a job by it on a command line.
    label = re.sub(r"[^A-Za-z0-9.+=_-]+", "-", label).strip("-.")[:LABEL].rstrip("-.+")
    return Node(stage, label or stage, identity, tuple(parents), settings, key)


@dataclass(frozen=True)
class Pass:
    """What one forward pass of an image gives: the maps of all cams and affinities of a trunk.

    Cams with other weights, precision or position embedding are in another pass; so are those
    whose texts come from a file, since a newer file must not start the others again.

    Attributes:
        name: for the rules.
        texts: the ranked texts that it reads; None where all templates are fixed.
        nodes: cams and affinities, sorted.
    """

    name: str
    texts: Node | None
    nodes: tuple[Node, ...]

    @property
    def cam(self) -> dict[str, Any]:
        """Settings of one of its cams, of which all share model, precision and embedding."""
        return next(cam_of(one).settings for one in self.nodes)

    def subset(self, mask: int) -> list[Node]:
        """The nodes whose bits are set, the first node being the lowest bit."""
        return [one for bit, one in enumerate(self.nodes) if mask >> bit & 1]

    def mask(self, nodes: Sequence[Node]) -> int:
        """The bits of some nodes."""
        return sum(1 << bit for bit, one in enumerate(self.nodes) if one in nodes)


def texts_of(texts: Node) -> dict[str, Any]:
    """What `clip_wsss.prompts.texts.text_features` takes of texts whose template is fixed."""
    return {
        "templates": texts.identity["template"],
        "names": list(texts.settings["names"].values()),
        "words": texts.identity["background"],
    }


def words_of(texts: Node) -> dict[str, list[str]]:
    """What texts call all classes, and their background words."""
    return {
        "names": list(texts.settings["names"].values()),
        "background_names": list(texts.identity["background"]),
    }


def is_online(node: Node) -> bool:
    """Whether a node is a training that makes its labels itself, and reads no masks."""
    return node.stage == "segmentation" and node.settings["labels"] == "online"


def has_text_head(node: Node) -> bool:
    """Whether a node is a training whose classes are texts."""
    return node.stage == "segmentation" and "text_head" in node.settings


def needs_texts(training: Node) -> bool:
    """Whether a training reads text features: it makes its labels itself, or has a text head."""
    return is_online(training) or has_text_head(training)


def has_final_labels(inference: Node) -> bool:
    """Whether predictions are of a training whose maker labels whole images too, by `final`."""
    training = inference.parents[0]
    if not is_online(training):
        return False
    maker = method("labels", training.settings["online"]["labels"]["method"])
    return hasattr(maker.function, "final")


def cam_of(node: Node) -> Node:
    """The cam of a node of maps: itself, or the one that an affinity refines."""
    return node if node.stage == "cam" else node.parents[0]


def is_ranked(texts: Node) -> bool:
    """Whether the template is chosen by a ranking, so that the features are a file."""
    return texts.identity["template"] == "sharpest"


def ranked_texts(node: Node) -> Node | None:
    """The ranked texts that a node is made from; None where its job encodes fixed ones."""
    texts = node.parent("texts")
    return texts if texts is not None and is_ranked(texts) else None
