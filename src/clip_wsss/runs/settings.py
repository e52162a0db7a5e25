"""Typed settings: what a config may say, with defaults, ranges and descriptions.

The settings of a method lie with the method (`clip_wsss.core.methods`); an entry has those of the
methods that it names, and no others. A field at its default is left out of a stage's key
(`graph.py`). So a new field with a default moves no folder, and a default is never changed: another
one gets a new name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeVar, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from clip_wsss.core.confidence import MU, check_mu
from clip_wsss.core.errors import InputError, kind_and_words
from clip_wsss.core.methods import with_methods
from clip_wsss.core.names import Names
from clip_wsss.core.settings import Location, Positive, Settings, check_kept
from clip_wsss.core.spelling import unknown
from clip_wsss.data.datasets import TAGCLIP
from clip_wsss.labels.online import OnlineSettings
from clip_wsss.labels.teacher_settings import TeacherSettings
from clip_wsss.tags.tagclip import TagClipSettings

# A name that becomes a part of a path: no separator, no dot at an end, no line break. With - at its
# begin programs would take it for an option, and `-` alone is no entry in a table.
NAME = r"^[A-Za-z0-9_+]([A-Za-z0-9_.+-]*[A-Za-z0-9_+-])?$"
NAME_RULE = "may hold letters, digits, _ + - and inner dots only, and must not begin with -"
Name = Annotated[str, Field(max_length=100, pattern=NAME)]
Text = Annotated[str, Field(min_length=1)]


def _place(path: str) -> str:
    if set(path) & set("{}"):
        raise ValueError(
            "must be without { and }, between which Snakemake looks for a wildcard; rename the "
            f"folder, or make a link to it; got {path}"
        )
    return path


Place = Annotated[Location, AfterValidator(_place)]  # that Snakemake gets
Count = Annotated[int, Field(ge=1)]


def _once(values: list[float]) -> list[float]:
    if len(set(values)) < len(values):
        raise ValueError(f"must hold each number once; got {', '.join(map(str, values))}")
    return values


Scale = Annotated[float, Field(ge=0.05, le=20)]  # of an image: beyond is a slip of the pen
Several = Annotated[list[Scale], Field(min_length=1), AfterValidator(_once)]
MOST_RESAMPLES = 100_000  # whose values, for each class and run, are in memory
Seed = Annotated[int, Field(ge=0, lt=2**63)]


S = TypeVar("S", bound=BaseModel)


class Splits(Settings):
    """Lists of image ids, names in ImageSets/Segmentation or paths of .txt files."""

    prompts: Place | None = Field(None, description="ranks the templates")
    pseudo: Place = Field(description="gets maps and masks, and trains the segmentor")
    score: Place | None = Field(None, description="the part of it that has ground truth")
    val: Place | None = Field(None, description="scores the segmentor")
    test: Place | None = Field(None, description="predicted for an evaluation server")


class DatasetSettings(Settings):
    """The data."""

    name: Name = Field(description="of the folder results/<name>")
    source: Literal["demo", "voc12", "coco14", "folder", "images"] = Field(
        description="how the data come about"
    )
    root: Place = Field(description="holds JPEGImages, Annotations, SegmentationClass, ImageSets")
    vocabulary: Location = Field(description="file of classes, renames, background words")
    labels: Place = Field(
        "xml",
        description="image-level labels: xml, the path of a .csv, .npy or COCO .json, or tagclip: "
        "predicted",
    )
    tagclip: TagClipSettings | None = Field(None, description="of labels: tagclip")
    size: Literal["xml", "image"] = Field("xml", description="what states the size of an image")
    masks: Location | None = Field(
        None, description="folder of the ground truth, or COCO .json, below root"
    )
    splits: Splits
    on_bad_image: Literal["fail", "skip"] = Field(
        "fail", description="what happens with a bad image"
    )
    orientation: Literal["refuse", "stored"] = Field(
        "refuse", description="an image with an EXIF orientation: refused, or its pixels as stored"
    )
    unseen: list[Text] = Field(
        [], description="classes of the vocabulary that are held out (docs/zero-shot.md)"
    )
    negatives: Literal["refuse", "background"] = Field(
        "refuse", description="images without a class: refused, or labelled background"
    )
    train_negatives: bool = Field(False, description="whether trainings use them")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.train_negatives and self.negatives == "refuse":
            raise ValueError("train_negatives: needs negatives: background; got refuse")
        if (self.labels == TAGCLIP) != (self.tagclip is not None):
            raise ValueError("tagclip: is needed by labels: tagclip, and is only for it")
        return self


class Demo(Settings):
    """The scenes that `source: demo` renders."""

    seed: Seed = Field(description="of the scenes")
    train: Count = Field(description="images")
    val: Count = Field(description="images")
    world: Literal[1, 2] = Field(
        1,
        description="1: plain, as those that the shipped CLIP was trained on; 2: with clutter, "
        "company, shadows and other looks",
    )


class Replacement(Settings):
    """Another place of one archive."""

    path: Location | None = Field(None, description="an archive, or its unpacked folder")
    url: Text | None = Field(None, description="of the same file")
    mirrors: list[Text] | None = Field(None, description="tried where url fails")
    md5: Annotated[str, Field(pattern="^([0-9a-fA-F]{32}|registry)$")] | None = Field(
        "registry", description="of another file; null: unchecked; `registry`: of the same file"
    )


class Sources(Settings):
    """What is downloaded."""

    registry: Location = Field(description="file of addresses, mirrors, checksums and licences")
    verify_splits: bool = Field(True, description="the lists of ids must be the official ones")
    replace: dict[str, Replacement] = Field(
        {}, description="local copies or other addresses, by the registry's names (datasets.md)"
    )


class Runs(Settings):
    """Tables of runs."""

    tables: list[Location] = Field(min_length=1, description="one row a run, tab separated")
    sweeps: list[dict[str, Any]] = Field([], description="more rows from one line (ablation.md)")


class Model(Settings):
    """A frozen tower: a CLIP, or a ViT without texts, whose attention an affinity may use."""

    library: Literal["open_clip", "timm", "jina"] = Field(
        "open_clip", description="whose network it is (docs/towers.md)"
    )
    architecture: Location | None = Field(
        None, description="name in the library, or of open_clip and jina the path of a JSON"
    )
    weights: Place = Field(description="the library's tag, or a local file")
    round_weights: Literal["none", "float16"] = Field(
        "none", description="float16: matrices pass through it, as OpenAI's did"
    )
    max_patches: Count = Field(
        8192, description="of an image; a larger one is scaled down for its maps, not its masks"
    )
    text_features: Location | None = Field(
        None, description="npz asked for the texts' features instead of a text tower (towers.md)"
    )
    license: Text | None = Field(None, description="of the weights; shown beside the figures")
    source: Text | None = Field(None, description="where the weights come from; likewise")

    @property
    def origin(self) -> str:
        """Licence and source of the weights, in words."""
        return f"licence {self.license or 'unknown'}, source {self.source or 'unknown'}"


class Texts(Settings):
    """Which sentence a class is put into."""

    template: Text | Annotated[list[Text], Field(min_length=1)] | Count = Field(
        description="a template, several (averaged), a line of `templates`, or sharpest"
    )
    templates: Location = Field(
        "config/templates/imagenet20.txt", description="the list that sharpest chooses from"
    )
    score: Literal["cls", "patches"] = Field("cls", description="of sharpness")
    spread: Literal["variance", "deviation"] = Field("variance", description="of sharpness")
    names: Text = Field("plain", description="list of the vocabulary that renames classes")
    ranked_names: Text | None = Field(
        None, description="list of names that sharpest ranks the templates with; null: `names`"
    )
    background: Text = Field("none", description="list of the vocabulary of background words")


class PositionEmbedding(Settings):
    """How the position embedding is fitted to a grid."""

    resize: Literal["bilinear", "bicubic"] = Field("bilinear", description="bicubic: open_clip's")
    round: Literal["none", "float16"] = Field("none", description="float16: as the public code")


class Cam(Settings):
    """Initial maps."""

    model: Annotated[Name, Names("model")] = Field(description="an entry of `models`")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the tower; float16 needs CUDA"
    )
    position_embedding: PositionEmbedding = PositionEmbedding()
    method: Annotated[str, Names("cam", "here")] = Field(
        "gradcam", description="how maps are made; its settings go beside it"
    )
    scales: Several = Field(
        [1.0], description="of the image; each scale's maps in [0, 1] are averaged"
    )
    flip: bool = Field(False, description="averaged with the mirror images of all scales")


class Affinity(Settings):
    """Refinement of the maps on the grid."""

    method: Annotated[str, Names("affinity", "here")] = Field(
        "caa", description="how maps are refined; its settings go beside it"
    )


class Refined(Settings):
    """What refines full-resolution scores by the image."""

    refinement: Annotated[str, Names("refinement")] = Field(
        "none", description="a mask refinement; its settings go below its name"
    )


class Masks(Refined):
    """Labels and confidences of the pixels."""

    source: Literal["maps", "ground-truth", "import"] = Field(
        "maps", description="maps of the run; the data set's own masks; a folder of label PNGs"
    )
    background_power: Positive = Field(1.0, description="p of the background score (1 - max)^p")
    scores: Literal["float16", "float32"] = Field(
        "float16",
        description="of maps at full size, which a mask refinement gets; float16 as CLIP-ES's CRF",
    )
    scoring: Literal["fixed", "oracle"] = Field(
        "fixed", description="figure of the maps: at background_power, or the best power"
    )
    folder: Location | None = Field(None, description="of import: holds <id>.png")
    confidences: Location | None = Field(None, description="of import: holds <id>.png in grey")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.source == "import") != (self.folder is not None):
            raise ValueError("folder: is needed by source: import, and is only for it")
        if self.confidences is not None and self.source != "import":
            raise ValueError("confidences: is only for source: import")
        if self.source != "maps" and self.used().keys() - {"source", "folder", "confidences"}:
            raise ValueError(
                f"source: {self.source} takes masks as they are; leave out the settings of maps"
            )
        return self

    def used(self) -> dict[str, Any]:
        """The fields that differ from their defaults and decide bytes."""
        return self.model_dump(exclude_defaults=True, exclude={"scoring"})


class TextHeadSettings(Settings):
    """Pixels are classified by their cosine with the row's texts (docs/zero-shot.md)."""

    model: Annotated[Name, Names("model")] = Field(
        description="CLIP of the texts, an entry of `models`; that of the cam, if the row has one"
    )
    background: Literal["words", "learnt", "none"] = Field(
        "words",
        description="its logit: the maximum over the background words, a vector that is learnt, or "
        "none: it is neither trained on nor predicted",
    )
    scale: Positive = Field(100.0, description="of the cosine; 100 is CLIP's")
    learn_scale: bool = Field(False, description="whether the training changes it")
    shuffle_texts: Seed | None = Field(
        None, description="a control: seed that gives each class the text of another"
    )


class Segmentation(Settings):
    """A training."""

    segmentor: Annotated[Location, Names("segmentor")] = Field(
        description="file with the model, its schedule and pipelines, or package.module:function"
    )
    loss: Annotated[str, Names("loss")] = Field(
        "confidence-guided", description="of the pixels; its settings go below its name"
    )
    mu: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="a pixel counts from this confidence on; 0.95, but 0 for cross-entropy and "
        "labels: online",
    )
    iterations: Count = Field(le=10**8, description="updates of the weights")
    precision: Literal["float32", "amp"] = Field("float32", description="amp needs CUDA")
    init: Location | None = Field(
        None, description="initial weights; null: what the segmentor names"
    )
    labels: Literal["masks", "online"] = Field(
        "masks", description="the run's masks, or labels made again in every step (docs/weclip.md)"
    )
    online: OnlineSettings = Field(OnlineSettings(), description="of labels: online")
    text_head: TextHeadSettings | None = Field(
        None, description="in the place of the decode head's classifier; null: that one"
    )
    seen_only: bool = Field(
        False, description="whether masks are without the classes of dataset.unseen, ignored there"
    )
    teacher: TeacherSettings | None = Field(
        None, description="what the CLIP of text_head teaches; null: nothing (docs/zero-shot.md)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.labels == "masks" and self.online.model_dump(exclude_defaults=True):
            raise ValueError("online: is only for labels: online")
        if self.labels == "online" and self.mu:
            raise ValueError(
                "mu: labels that are made online have no confidence; leave mu out with labels: "
                "online"
            )
        if self.labels == "online" and (self.text_head is not None or self.seen_only):
            key = "seen_only" if self.text_head is None else "text_head"
            raise ValueError(f"{key}: needs labels: masks; got online")
        if self.teacher is not None and self.text_head is None:
            raise ValueError(
                "teacher: needs text_head, whose CLIP it is; set that, or leave it out"
            )
        if self.loss == "cross-entropy" and self.mu:
            raise ValueError(
                f"mu: {self.mu:g} does nothing with loss: cross-entropy, which counts all pixels; "
                "leave mu out, or set loss to confidence-guided"
            )
        check_mu(self.threshold)
        return self

    @property
    def threshold(self) -> float:
        """The mu that the loss compares with."""
        if self.mu is not None:
            return round(self.mu, 6)  # an edge of the confidences, which have three decimals
        return 0.0 if self.loss == "cross-entropy" or self.labels == "online" else MU


# Settings of a training that are left out of what it hands on where they say nothing.
UNSAID: dict[str, Any] = {"text_head": None, "seen_only": False, "teacher": None}


class Inference(Refined):
    """Prediction of a trained segmentor."""

    scales: Several = Field([1.0], description="averaged")
    flip: bool = Field(False, description="averaged with the mirrored image")
    long_side: Count | None = Field(
        None, ge=16, description="of what the network sees at scale 1; null: the image's own size"
    )
    average: Literal["probabilities", "logits"] = Field(
        "probabilities", description="at full size, or logits on the grid of the first scale"
    )


class Evaluation(Settings):
    """Scoring; nothing here is in the key of a stage."""

    background_power: Positive = Field(1.0, description="of runs without masks")
    powers: Several = Field([float(p) for p in range(1, 11)], description="of the oracle sweep")
    bootstrap: Annotated[int, Field(ge=1, le=MOST_RESAMPLES)] = Field(
        1000, description="resamples of the images for every interval"
    )
    seed: Seed = Field(0, description="of the resampling")
    published: Location | None = Field(None, description="published figures that the tables quote")
    unseen_background: Literal["seen", "ignored"] = Field(
        "seen",
        description="with dataset.unseen: whether the background is a seen class, or its pixels "
        "count for nothing in the figures of seen and unseen classes",
    )
    panels: Count = Field(12, description="images that the report shows; they are predicted too")


Stage = Literal[
    "data", "check", "tags", "texts", "maps", "masks", "segmentation", "inference", "score",
    "tables", "report",
]  # fmt: skip


class Needs(Settings):
    """What a scheduler is asked for at the first attempt; each retry asks for twice as much."""

    memory: Count = Field(description="MB")
    minutes: Count = Field(description="wall time")


# Of a job of VOC: guesses, generous where a job that is stopped loses most.
NEEDS: dict[Stage, Needs] = {
    "data": Needs(memory=4000, minutes=600),
    "check": Needs(memory=4000, minutes=120),
    "tags": Needs(memory=8000, minutes=1440),
    "texts": Needs(memory=8000, minutes=120),
    "maps": Needs(memory=8000, minutes=240),
    "masks": Needs(memory=8000, minutes=240),
    "segmentation": Needs(memory=24000, minutes=1440),
    "inference": Needs(memory=16000, minutes=480),
    "score": Needs(memory=8000, minutes=240),
    "tables": Needs(memory=4000, minutes=60),
    "report": Needs(memory=8000, minutes=120),
}


class Compute(Settings):
    """The machine."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: CUDA if there is a GPU"
    )
    threads: Count = Field(1, description="of torch in one job; they change the last bits")
    workers: Count = Field(
        1,
        description="processes of a CRF or a scoring job, and threads that read images for a GPU; "
        "same results",
    )
    batch: Count = Field(
        16, description="images of equal grid in one forward pass; it changes the last bits"
    )
    shards: Annotated[int, Field(ge=1, le=9999)] = Field(1, description="jobs of a stage")
    gpus: Count = Field(1, description="processes of one training")
    predictors: Count = Field(1, description="jobs of inference, among which trainings are divided")
    needs: dict[Stage, Needs] = Field(
        {},
        description="what a job of a stage asks a scheduler for; by default "
        + ", ".join(f"{stage} {one.memory} MB {one.minutes} min" for stage, one in NEEDS.items()),
    )


class Config(Settings):
    """A whole config."""

    plugins: list[Location] = Field(
        [],
        description="more folders of methods; that of the config and the current one count anyway",
    )
    dataset: DatasetSettings
    demo: Demo | None = None
    sources: Sources | None = None
    runs: Runs
    models: dict[Name, Model] = {}
    texts: dict[Name, Texts] = {}
    cam: dict[Name, SerializeAsAny[Cam]] = {}
    affinity: dict[Name, SerializeAsAny[Affinity]] = {}
    masks: dict[Name, SerializeAsAny[Masks]] = {}
    segmentation: dict[Name, SerializeAsAny[Segmentation]] = {}
    inference: dict[Name, SerializeAsAny[Inference]] = {}
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dataset.source == "demo" and self.demo is None:
            raise ValueError("demo: is needed by dataset.source: demo")
        if self.dataset.source in ("voc12", "coco14") and self.sources is None:
            raise ValueError(f"sources: is needed by dataset.source: {self.dataset.source}")
        return self


ENTRIES: dict[str, type[Settings]] = {
    "texts": Texts,
    "cam": Cam,
    "affinity": Affinity,
    "masks": Masks,
    "segmentation": Segmentation,
    "inference": Inference,
}


def validated_entry(group: str, content: Any, source: str) -> Settings:
    """Check an entry of a group, with the settings of the methods that it names.

    Args:
        group: of `ENTRIES`.
        content: of the entry.
        source: for messages.

    Raises:
        InputError: as `validated`, a method that is not there or does not fit its kind, or
            settings that a job would not get as they are.
    """
    kind = entry_class(group, content, source)
    entry = validated(kind, content, source, ".")
    check_kept(kind, entry, source)
    return entry


def entry_class(group: str, content: Any, source: str) -> type[Settings]:
    """The class of an entry by the methods that it names. Raises InputError as `with_methods`."""
    try:
        return with_methods(ENTRIES[group], content if isinstance(content, dict) else {})
    except InputError as error:
        raise InputError(f"{source}.{error}") from None


def check_part(content: dict, source: str) -> None:
    """Check what a part of a config says; what is missing may still come from another file.

    Raises:
        InputError: as `validated`.
    """
    rest = dict(content)
    for group in ENTRIES:
        entries = rest.get(group)
        if isinstance(entries, dict):
            del rest[group]
            for name, one in entries.items():
                where = f"{source}: {group}.{name}"
                validated(entry_class(group, one, where), one, where, ".", part=True)
    validated(Config, rest, source, part=True)


@overload
def validated(kind: type[S], content: Any, source: str, joint: str = ": ") -> S: ...
@overload
def validated(
    kind: type[S], content: Any, source: str, joint: str = ": ", *, part: bool
) -> S | None: ...
def validated(
    kind: type[S], content: Any, source: str, joint: str = ": ", part: bool = False
) -> S | None:
    """Check `content` and fill in the defaults.

    Args:
        kind: of the settings.
        content: as read.
        source: for messages.
        joint: between it and the key.
        part: whether more may come, so that what is missing is not an error; returns None then.

    Raises:
        InputError: one line, "<source>: <key>: <what is wrong>".
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        errors = [
            one
            for one in error.errors()
            if not part or one["type"] not in ("missing", "value_error", "assertion_error")
        ]
        if not errors:
            return None
        message = _message(kind, errors[0])
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        joint = joint if errors[0]["loc"] else ": "
        raise InputError(f"{source}{joint}{line}") from None
    except BaseException as error:  # whatever a validator of a method's settings raises
        if part:
            return None
        reason = kind_and_words(error)
        raise InputError(f"{source}: the settings cannot be checked ({reason})") from None


_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "path_type": "text",
    "none_required": "null",
    "invalid_key": "under a key that is text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_too_short": "not empty",
    "too_short": "a list that is not empty",
}
SHOWN = 100  # characters of a value in a message
_TRIED = re.compile(r"(constrained|function|json|lax|tuple|list|set|frozenset|dict|literal)(\[|-)")
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _message(kind: type[BaseModel], error: ErrorDetails) -> str:
    """The first error as "key: what is wrong"."""
    found, context, got = error["type"], error.get("ctx", {}), error["input"]
    # A union adds the name of the kind that it tried to the place.
    place = [str(p) for p in error["loc"] if p != "[key]" and not _TRIED.match(str(p))]
    while place and place[-1] in ("str", "int", "float", "bool"):
        place.pop()
    where = ".".join(place)
    prefix = f"{where}: " if where else ""
    said = got if isinstance(got, str) else repr(got)
    said = said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
    if found == "extra_forbidden" and got is None:
        return (
            f"{prefix}null removes what a parent sets here, and no parent sets it; remove this line"
        )
    if found == "extra_forbidden":
        return f"{prefix}{unknown('key', place[-1], _keys(kind, place[:-1]))}"
    if found == "missing":
        return f"{prefix}is missing"
    if found in ("literal_error", "enum"):
        allowed = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{prefix}must be one of {allowed}; got {said}"
    if found in _BOUNDS:
        words, bound = _BOUNDS[found]
        return f"{prefix}must be {words} {context[bound]:g}; got {said}"
    if found == "string_pattern_mismatch" and place[-1:] == ["md5"]:
        return f"{prefix}must be 32 hexadecimal digits; got {said}"
    if found == "string_pattern_mismatch":
        return f"{prefix}`{said}` {NAME_RULE}"
    if found == "string_too_long":
        return f"{prefix}must have at most {context['max_length']} characters; got {said}"
    if found in _KINDS:
        said = f"'{said}'" if isinstance(got, str) else said
        return f"{prefix}must be {_KINDS[found]}; got {said}"
    if found == "value_error":
        return f"{prefix}{context['error']}"
    return f"{prefix}{' '.join(error['msg'].split())}"


def _keys(kind: Any, place: list[str]) -> list[str]:
    """Keys of the settings at a place."""
    for part in place:
        fields = getattr(kind, "model_fields", None)
        if fields is None or part not in fields:
            kind = _values(kind)
            continue
        kind = fields[part].annotation
    kind = _values(kind) if not hasattr(kind, "model_fields") else kind
    return list(getattr(kind, "model_fields", {}))


def _values(kind: Any) -> Any:
    """The settings within an annotation such as `dict[str, Model]` or `Demo | None`."""
    arguments = getattr(kind, "__args__", ())
    return next((one for one in arguments if hasattr(one, "model_fields")), kind)
