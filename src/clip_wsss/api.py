"""Pseudo masks of pictures and their labels in a few lines of Python.

`clip_wsss.segment`, `clip_wsss.segment_all` and `clip_wsss.Segmenter` are these. They call the very
functions that the jobs of the workflow call, so the same settings give the same labels. Torch is
imported when the first picture is looked at.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from clip_wsss.cams.passes import CamVariant, compute_pass
from clip_wsss.core.confidence import MU, check_mu, encode
from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.images import as_rgb, image_size, open_image, read_rgb, write_label
from clip_wsss.core.maps import ImageMaps, upsample_maps
from clip_wsss.core.methods import method
from clip_wsss.core.names import models_of
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.resources import find, project
from clip_wsss.core.spelling import unknown
from clip_wsss.data.datasets import Dataset
from clip_wsss.data.lists import image_id
from clip_wsss.data.vocabulary import (
    IGNORE,
    Vocabulary,
    check_background,
    class_words,
    make_vocabulary,
    open_vocabulary,
    told,
)
from clip_wsss.masks.write import labels_and_confidence
from clip_wsss.prompts.texts import text_features
from clip_wsss.runs.config import check_entry, read_config
from clip_wsss.runs.contents import model_identity
from clip_wsss.runs.graph import templates_of
from clip_wsss.runs.settings import Config, Masks, Model, validated_entry
from clip_wsss.runs.table import RunSettings, read_runs, resolve, run_settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.models.frozen_clip import FrozenClip
    from clip_wsss.models.timm_clip import TimmClip
    from clip_wsss.models.tower import Tower

MASK_GROUPS = ("texts", "cam", "affinity", "masks")  # the stages that end in pseudo masks
ORIENTATIONS = ("refuse", "turned", "stored")
# A picture, its labels and, if wanted, an id.
Labelled = tuple[Any, str | Sequence[str]] | tuple[Any, str | Sequence[str], str]
WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors")


class ZeroMapWarning(UserWarning):
    """A class of a picture has a map that is 0 all over: nothing of it is in the mask."""


# Arrays have no names, so Python would say it of the first alone; filters of the user go before.
warnings.simplefilter("always", ZeroMapWarning, append=True)


DEMO_WARNING = (
    "weights: demo: this CLIP has only seen rendered scenes of emoji; its masks of photographs "
    "mean nothing"
)


@dataclass(frozen=True)
class Preset:
    """The settings of the stages up to the masks, and the config that they are from.

    Attributes:
        config: gives the vocabulary and the entries of `models`.
        path: of the config.
        stages: texts, cam and masks, and an affinity or None.
    """

    config: Config
    path: str
    stages: RunSettings


def read_preset(preset: str | Mapping[str, Any]) -> Preset:
    """Read a preset.

    Args:
        preset: a row of a runs table, `[config:]row[,group.key=value…]`: `clip-es` or `corrected`
            of config/voc12.yaml, `coco14:clip-es`, `my/config.yaml:mine`, or with changes as in a
            cell, `clip-es,masks.crf.backend=fast`. Or a mapping of texts, cam, affinity (left out:
            none), masks (left out: the maps as they are) and, if wanted, config: a cell or the
            settings of an entry each.

    Raises:
        InputError: there is no such config, row or setting; a row without maps, or whose template
            is ranked on a data set.
    """
    if isinstance(preset, Mapping):
        config, path, stages = _of_mapping(preset)
    elif not isinstance(preset, str):
        raise InputError(f"preset: must be a row of a runs table or a mapping; got {preset!r}")
    else:
        config, path, stages = _of_row(preset)
    texts, cam, masks = stages.texts, stages.cam, stages.masks or Masks()
    if texts is None or cam is None or masks.source != "maps":
        raise InputError(f"preset: `{preset}` makes no masks from maps; name another row of {path}")
    if texts.template == "sharpest":
        raise InputError(
            f"preset: `{preset}` ranks its templates on a data set; name a row with a template, "
            "such as clip-es"
        )
    return Preset(config, path, replace(stages, masks=masks))


def _of_row(preset: str) -> tuple[Config, str, RunSettings]:
    name, *changes = preset.split(",")
    source, _, row = name.rpartition(":")
    config, path = _config(source or "voc12")
    runs = {run.name: run for run in read_runs(config)}
    if row not in runs:
        raise InputError(f"preset: {path}: {unknown('row', row, runs)}")
    run = replace(runs[row], segmentation=None, inference=None)
    for change in changes:
        group, _, setting = change.partition(".")
        if group not in MASK_GROUPS or not run.cell(group) or "=" not in setting:
            raise InputError(
                f"preset: `{change}` must be group.key=value with a group of "
                f"{', '.join(one for one in MASK_GROUPS if run.cell(one))}"
            )
        changed: dict[str, Any] = {group: f"{run.cell(group)},{setting}"}
        run = replace(run, **changed)
    stages = run_settings(config, run)
    for group in MASK_GROUPS:
        if (entry := getattr(stages, group)) is not None:
            check_entry(config, entry, f"preset: {group}")
    return config, path, stages


def _of_mapping(preset: Mapping[str, Any]) -> tuple[Config, str, RunSettings]:
    if strange := [key for key in preset if key not in (*MASK_GROUPS, "config")]:
        raise InputError(f"preset: {unknown('key', strange[0], (*MASK_GROUPS, 'config'))}")
    config, path = _config(str(preset.get("config", "voc12")))
    found: dict[str, Any] = {}
    for group in MASK_GROUPS:
        content = preset.get(group)
        if content is not None:
            entry = (
                resolve(config, group, content)
                if isinstance(content, str)
                else validated_entry(group, dict(content), f"preset: {group}")
            )
            check_entry(config, entry, f"preset: {group}")
            found[group] = entry
    return config, path, RunSettings(**found)


def _config(name: str) -> tuple[Config, str]:
    is_file = name.endswith((".yaml", ".yml"))
    path = os.path.expanduser(name) if is_file else f"config/{name}.yaml"
    return read_config(path), path


@dataclass(frozen=True)
class PseudoMask:
    """The pseudo mask of a picture.

    Attributes:
        id: that was given, or else the file's name without its suffix, or `image-<n>` for the n-th
            picture in memory.
        label: (H, W) uint8, 0 background, n the n-th class of the vocabulary.
        confidence: (H, W) float32 in [0, 1].
        cams: (K, gh, gw) float32 in [0, 1], the maps that the label is made from: one for each
            class of the picture, on the grid of patches.
        classes: names of the K classes.
        values: what they are in `label`.
    """

    id: str
    label: np.ndarray
    confidence: np.ndarray
    cams: np.ndarray
    classes: tuple[str, ...]
    values: tuple[int, ...]

    def __repr__(self) -> str:
        height, width = self.label.shape
        named = ", ".join(f"{n} {name}" for name, n in zip(self.classes, self.values, strict=True))
        return f"PseudoMask({self.id!r}, {width} x {height}, labels 0 background, {named})"

    @property
    def without_map(self) -> tuple[str, ...]:
        """Classes whose map is 0 all over, so that the label lacks them."""
        pairs = zip(self.classes, self.cams, strict=True)
        return tuple(name for name, cam in pairs if not cam.any())

    def kept(self, mu: float = MU) -> np.ndarray:
        """The label with 255 where the confidence is below mu, (H, W) uint8.

        Raises:
            InputError: mu is not a step of the stored confidences.
        """
        check_mu(mu)
        enough = encode(self.confidence) >= encode(np.float32(mu))
        return np.where(enough, self.label, np.uint8(IGNORE))

    def heat(self) -> np.ndarray:
        """The maps at full size, (K, H, W) float16 in [0, 1]."""
        height, width = self.label.shape
        return upsample_maps(self.cams, (height, width))

    def save(self, path: str | Path) -> None:
        """Write the label as a PNG with the VOC palette.

        Raises:
            InputError: the name does not end in .png, or the file cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise InputError(f"{path}: a mask is written as a PNG; end the name in .png")
        try:
            write_label(path, self.label)
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); name another file"
            raise InputError(f"{path}: {reason}") from None


class Segmenter:
    """A preset with its tower, which is loaded once, for the first picture.

    Args:
        preset: see `read_preset`.
        classes: which values the labels have: None, the vocabulary of the preset's config (of
            `clip-es` VOC's 20 classes); a vocabulary by name (`voc12`, `coco14`) or file; or words
            of your own, the n-th of which has the value n, with {name: words in the prompt} where
            the prompt should say it otherwise.
        background: background words; None: the preset's, without those that are classes.
        weights: `auto`, what the preset names (OpenAI's, which open_clip downloads once); a file
            (OpenAI's .pt, an open_clip checkpoint or safetensors); another tag of open_clip; or
            `demo`, the demo's small CLIP, with a warning.
        architecture: of other weights, a name in open_clip or a model config; None: of a file,
            inferred or from the config beside it.
        orientation: of pictures with an EXIF orientation, whose pixels lie otherwise than they are
            shown: `refuse`; `turned`, so that the mask fits what is shown; or `stored`.
        device: auto (CUDA where there is one), cpu or cuda.
        batch: pictures at once, at most; the last bits of maps depend on how many of a size come
            together.
        workers: processes that make masks of maps, such as CRFs; they change nothing but the time.

    Raises:
        InputError: settings that cannot be used. What is wrong with the weights is said when they
            are loaded.
    """

    def __init__(
        self,
        preset: str | Mapping[str, Any] = "clip-es",
        *,
        classes: str | Path | Sequence[str] | Mapping[str, str] | None = None,
        background: Sequence[str] | None = None,
        weights: str | Path = "auto",
        architecture: str | None = None,
        orientation: str = "refuse",
        device: str = "auto",
        batch: int = 16,
        workers: int = 1,
    ):
        if orientation not in ORIENTATIONS:
            raise InputError(
                f"orientation: must be one of {', '.join(ORIENTATIONS)}; got {orientation}"
            )
        for what, number in (("batch", batch), ("workers", workers)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InputError(f"{what}: must be an integer of at least 1; got {number!r}")
        self.preset, self.orientation = read_preset(preset), orientation
        self._stages: dict[str, Any] = {
            group: None if entry is None else entry.model_dump()
            for group in MASK_GROUPS
            for entry in [getattr(self.preset.stages, group)]
        }
        self.vocabulary = self._vocabulary(classes, background)
        self.model = self._model(str(weights), architecture)
        self.device, self.batch, self.workers = device, batch, workers

    @property
    def names(self) -> dict[str, str]:
        """What the prompt calls each class, in the order of their values."""
        return self.vocabulary.texts(self._stages["texts"]["names"])

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides a mask, as JSON holds it: weights by the digest of their file."""
        return {
            **self._stages,
            "model": model_identity(self.model),
            "names": list(self.names.items()),
            "background": list(self._background),
            "orientation": self.orientation,
            "towers": {name: model_identity(one) for name, one in self._others.items()},
        }

    def __call__(self, image: Any, labels: str | Sequence[str]) -> PseudoMask:
        """The pseudo mask of one picture; see `segment`."""
        return next(self.all([(image, labels)]))

    def all(self, pairs: Iterable[Labelled]) -> Iterator[PseudoMask]:
        """The pseudo masks of pictures in their order; see `segment_all`."""
        for found in self.outcomes(pairs):
            if isinstance(found, InputError):
                raise found
            yield found

    def outcomes(self, pairs: Iterable[Labelled]) -> Iterator[PseudoMask | InputError]:
        """As `all`, with the error of a bad picture in its place.

        Raises:
            InputError: the weights cannot be used, something is no pair, or two have one id.
        """
        refine = method("refinement", self._stages["masks"]["refinement"])
        batches = getattr(refine.function, "batches", None)
        on_device = batches is not None and batches(
            refine.read(self._stages["masks"].get(refine.short))
        )
        with parallel_map(1 if on_device else self.workers) as mapped:
            device = str(self._clip.device) if on_device else "cpu"
            decide = partial(_decided, self._stages["masks"], device)
            if isinstance(pairs, Sequence):  # all are looked at before the first is worked on
                deque(_pictures(pairs, self.orientation), maxlen=0)
            for window in _windows(_pictures(pairs, self.orientation), self.batch):
                data = _Pictures(self.vocabulary, window)
                maps = dict(self._maps(data))
                whole = [one for one in window if isinstance(maps[one], ImageMaps)]
                made = mapped(decide, [(maps[one], data.image(one)) for one in whole])
                decided = dict(zip(whole, made, strict=True))
                for one in window:
                    yield self._outcome(maps[one], decided.get(one), window[one])

    def _outcome(
        self, maps: ImageMaps | str, decided: Any, picture: _Picture
    ) -> PseudoMask | InputError:
        if isinstance(maps, str) or isinstance(decided, InputError):
            said, begin = str(maps if isinstance(maps, str) else decided), f"{picture.id}: "
            if said.startswith(begin):
                said = f"{picture.where}: {said.removeprefix(begin)}"
            return InputError(said)
        keys, (label, confidence) = maps.keys.tolist(), decided
        names = tuple(self.vocabulary.classes[key] for key in keys)
        values = tuple(key + 1 for key in keys)
        made = PseudoMask(maps.id, label, confidence, maps.maps, names, values)
        if made.without_map:
            warnings.warn(
                f"{maps.id}: the map of {', '.join(made.without_map)} is 0 all over, so that the "
                "mask lacks it; look at the weights and at the words",
                ZeroMapWarning,
                stacklevel=2,
            )
        return made

    def _maps(self, data: _Pictures) -> Iterator[tuple[str, ImageMaps | str]]:
        """The maps that the masks are made from, or why there are none, by id."""
        affinity = self._stages["affinity"]
        own = {} if affinity is None else {"refined": affinity}
        cams = {"initial": CamVariant("own", self._stages["cam"], own)}
        for id_, found in compute_pass(
            data,
            list(data.pictures),
            self._clip,
            {"own": self._texts},
            cams,
            self.batch,
            self._towers,
            readers=self.workers,
        ):
            yield id_, found if isinstance(found, str) else [*found.values()][-1]

    @cached_property
    def _clip(self) -> FrozenClip | TimmClip:
        from clip_wsss.models.clip import load_for

        return load_for(self._stages["cam"], self.model.model_dump(), self.device)

    @cached_property
    def _texts(self) -> tuple[Tensor, Tensor]:
        texts = self.preset.stages.texts
        assert texts is not None  # `read_preset` has seen to it
        names = list(self.names.values())
        return text_features(self._clip, templates_of(texts), names, self._background)

    @property
    def _background(self) -> tuple[str, ...]:
        return self.vocabulary.background(self._stages["texts"]["background"])

    @property
    def _others(self) -> dict[str, Model]:
        """Towers that methods name beside the model of the cam."""
        used = (self.preset.stages.cam, self.preset.stages.affinity)
        keys = {
            name: key for one in used if one is not None for key, name in models_of(one).items()
        }
        return {
            name: self.preset.config.models[name] for name, key in keys.items() if key != "model"
        }

    @cached_property
    def _towers(self) -> dict[str, Tower]:
        from clip_wsss.models.opening import open_tower

        device = self._clip.device
        return {name: open_tower(one.model_dump(), device) for name, one in self._others.items()}

    def _vocabulary(self, classes: Any, background: Sequence[str] | None) -> Vocabulary:
        """The classes, under the names of lists that the texts of the preset use."""
        texts = self._stages["texts"]
        for what, said in (("classes", classes), ("background", background)):
            if said is None or (what == "classes" and isinstance(said, str | Path)):
                continue
            given: Any = said
            if what == "classes" and isinstance(said, Mapping):
                given = [*said, *said.values()]
            if isinstance(given, str) or not _are_words(given):
                raise InputError(f"{what}: must be a list of words; got {given!r}")
        named = os.path.expanduser(classes) if isinstance(classes, str | Path) else None
        own = open_vocabulary(named or self.preset.config.dataset.vocabulary)
        words = list(own.background(texts["background"]) if background is None else background)
        names = own.texts(texts["names"])
        if classes is not None and named is None:
            names = dict(classes) if isinstance(classes, Mapping) else {one: one for one in classes}
            if not isinstance(classes, Mapping) and len(names) < len(classes):
                raise InputError("classes: a name is given twice; keep one")
        plain = {name: name for name in names}
        if background is not None:
            check_background(words, {"plain": plain, texts["names"]: names}, "background")
        else:
            said = class_words(names) | class_words(plain)
            words = [word for word in words if told(word) not in said]
        return make_vocabulary(
            {
                "classes": list(names),
                "names": {texts["names"]: names},
                "backgrounds": {texts["background"]: words},
            },
            own.path if classes is None or named else "classes",
        )

    def _model(self, weights: str, architecture: str | None) -> Model:
        """The entry of `models` that the weights stand for."""
        cam = self.preset.stages.cam
        assert cam is not None  # `read_preset` has seen to it
        own = self.preset.config.models[cam.model]
        if weights == "auto":
            return own
        if weights == "demo":
            warnings.warn(DEMO_WARNING, stacklevel=2)
            return read_config(str(project() / "config/config.yaml")).models["demo"]
        path = Path(weights).expanduser()
        architecture = architecture and os.path.expanduser(architecture)
        if path.suffix in WEIGHT_FILES or find(path).is_file():
            return own.model_copy(update={"weights": str(path), "architecture": architecture})
        update = {"weights": weights, "architecture": architecture or own.architecture}
        return own.model_copy(update=update)


def segment(
    image: Any,
    labels: str | Sequence[str],
    preset: str | Mapping[str, Any] = "clip-es",
    **settings: Any,
) -> PseudoMask:
    """The pseudo mask of one picture.

    The tower stays loaded for the next call with the same settings.

    Args:
        image: a file; an image of Pillow; or an array (H, W, 3) RGB, (H, W, 4) or (H, W), uint8.
            Transparency lies on white.
        labels: the classes that are in the picture, by name; one or several. Their order breaks
            ties.
        preset: see `read_preset`.
        settings: of `Segmenter`, such as classes, weights and device.

    Raises:
        InputError: one line: a setting, weights, a label or a picture that cannot be used.
    """
    return _segmenter(preset, settings)(image, labels)


def segment_all(
    pairs: Iterable[Labelled],
    preset: str | Mapping[str, Any] = "clip-es",
    **settings: Any,
) -> Iterator[PseudoMask]:
    """The pseudo masks of many pictures, made a batch at a time.

    Args:
        pairs: (image, labels) of each picture, as `segment` takes them, or (image, labels, id);
            read as they are needed. No two may have one id, which is the file's name where none is
            given.
        preset: see `read_preset`.
        settings: of `Segmenter`.

    Returns:
        The masks in the order of the pictures.

    Raises:
        InputError: as `segment`; the first bad picture ends it (`Segmenter.outcomes` goes on).
    """
    return _segmenter(preset, settings).all(pairs)


_kept: dict[str, Segmenter] = {}  # the last one


def _segmenter(preset: str | Mapping[str, Any], settings: dict[str, Any]) -> Segmenter:
    key = json.dumps([preset, settings], default=str)
    if key not in _kept:
        made = Segmenter(preset, **settings)
        _kept.clear()
        _kept[key] = made
    return _kept[key]


def _decided(
    entry: dict, device: str, item: tuple[ImageMaps, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | InputError:
    """Label and confidence of an image, or what is wrong with it."""
    maps, rgb = item
    try:
        label, confidence = labels_and_confidence(maps.maps, maps.keys, rgb, entry, maps.id, device)
        encode(confidence)
    except ValueError as error:  # an InputError is one
        return InputError(f"{maps.id}: {error}; change the settings of {entry['refinement']}")
    return label, confidence


@dataclass
class _Picture:
    """A picture that a caller gave."""

    id: str
    image: Any
    labels: Sequence[str]
    orientation: str

    @property
    def where(self) -> str:
        """What a message calls it."""
        return str(self.image) if isinstance(self.image, str | Path) else self.id

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; of a file its header is read."""
        if isinstance(self.image, str | Path) and self.orientation != "turned":
            return image_size(self.image, self.orientation == "stored")
        return self.rgb.shape[0], self.rgb.shape[1]

    @cached_property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        image, stored = self.image, self.orientation == "stored"
        if isinstance(image, str | Path):
            if self.orientation != "turned":
                return read_rgb(image, stored)
            with open_image(image, stored=True) as opened:
                return as_rgb(ImageOps.exif_transpose(opened), self.where)
        if isinstance(image, np.ndarray):
            right = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
            if image.dtype != np.uint8 or not right or not image.size:
                raise InputError(
                    f"{self.where}: must be uint8 of shape (H, W, 3), (H, W, 4) or (H, W); got "
                    f"{image.dtype} of {image.shape}"
                )
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise InputError(
                f"{self.where}: must be a path, an array or an image of Pillow; got "
                f"{type(image).__name__}"
            )
        try:
            image.load()  # of a file that may be closed or not whole
        except Exception as error:  # Pillow raises whatever its parsers stumble over
            reason = f"cannot be read ({one_line(error)}); open the file again, or replace it"
            raise InputError(f"{self.where}: {reason}") from None
        if self.orientation == "turned":
            image = ImageOps.exif_transpose(image)
        return as_rgb(image, self.where, stored)


class _Pictures(Dataset):
    """Some pictures, as the pass over a data set reads them."""

    def __init__(self, vocabulary: Vocabulary, pictures: dict[str, _Picture]):
        super().__init__({"on_bad_image": "skip"}, vocabulary)
        self.pictures = pictures

    def size(self, name: str) -> tuple[int, int]:
        """Height and width."""
        return self.pictures[name].size

    def image(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8, read once."""
        return self.pictures[name].rgb

    def labels(self, name: str) -> list[int]:
        """Classes, 0-based, in the order given, duplicates dropped."""
        one = self.pictures[name]
        if not one.labels:
            raise InputError(f"{one.where}: has no labels; name a class or more that it shows")
        for label in one.labels:
            if label not in self._index:
                raise InputError(
                    f"{one.where}: {unknown('class', str(label), self._index)} (words of your own "
                    "are given as `classes`)"
                )
        return [self._index[label] for label in dict.fromkeys(one.labels)]


def _are_words(said: Any) -> bool:
    """Whether it is several texts in an order: that of a set is another in every process."""
    if isinstance(said, set | frozenset | Mapping):
        return False
    return isinstance(said, Collection) and all(isinstance(one, str) for one in said)


def _pictures(pairs: Iterable[Labelled], orientation: str) -> Iterator[_Picture]:
    """The pictures that a caller gave, no two of one id: their files would replace one another."""
    known: dict[str, str] = {}
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
            raise InputError(
                f"pairs: each must be an image and its labels, or these and an id; number {number} "
                f"is a {type(pair).__name__}"
            )
        image, labels = pair[:2]
        if not isinstance(labels, str) and not _are_words(labels):
            raise InputError(
                f"labels: must be the name of a class or a list of names; got {labels!r}"
            )
        file = isinstance(image, str | Path)
        where = str(image) if file else f"image-{number}"
        name = pair[2] if len(pair) == 3 else image_id(Path(where).name)
        if not isinstance(name, str) or not name:
            raise InputError(f"pairs: the id of {where} must be text; got {name!r}")
        if name in known:
            raise InputError(
                f"{where}: has the id `{name}` of {known[name]}; rename one, or give each an id: "
                "(image, labels, id)"
            )
        known[name] = where
        said = [labels] if isinstance(labels, str) else labels
        yield _Picture(name, image, [label for label in said if label], orientation)


def _windows(pictures: Iterator[_Picture], size: int) -> Iterator[dict[str, _Picture]]:
    """Pictures by id, `size` at a time."""
    while window := {one.id: one for one in islice(pictures, size)}:
        yield window
