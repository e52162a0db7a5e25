"""A classifier by text features in the place of a decode head's own (docs/zero-shot.md).

The idea of CLIP-ZSS (Chen et al., 2023): pixels are put into CLIP's text space, so that a class is
the feature of its text, and one that was never seen can be labelled. What the paper leaves open is
our reading, each choice a setting.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import load_npz
from clip_wsss.segmentation.weights import read_state

# Pixels are divided by their length or by this: one that is 0, as dead ReLUs make it, would have
# an endless gradient.
LEAST_LENGTH = 1e-3
NEVER = -1e4  # a logit whose share of any softmax is 0, which interpolation and float16 can hold
_BUFFERS = ("decode_head.texts", "decode_head.words")  # of a checkpoint


@MODELS.register_module()
class TextHead(BaseDecodeHead):
    """Logits are scale x cosine of dense features with text features.

    The dense features are what the decode head of a segmentor gives where its classifier, a 1x1
    convolution, has E outputs: the projection to the texts' width. The texts are buffers, which no
    training changes.

    Args:
        head: MMEngine config of the segmentor's decode head; its classes become E.
        texts: (K, E) of the classes, normalised.
        words: (M, E) of the background words, likewise.
        background: what its logit is: words: the maximum over the words; learnt: as of a class,
            by a vector that is learnt; none: it is never predicted.
        scale: of the cosine.
        learn_scale: whether the training changes it, by its logarithm.
        unseen: 0-based classes that the softmax is without while the head trains.
        **kwargs: of BaseDecodeHead (num_classes, loss_decode, sampler, ...).

    Raises:
        InputError: numbers of texts, classes and words that do not fit one another.
    """

    num_classes: int  # of the base, and the buffers
    texts: Tensor
    words: Tensor
    left_out: Tensor

    def __init__(
        self,
        head: dict,
        texts: Tensor,
        words: Tensor,
        background: str = "words",
        scale: float = 1.0,
        learn_scale: bool = False,
        unseen: Sequence[int] = (),
        **kwargs,
    ):
        width = texts.shape[1]
        super().__init__(
            in_channels=width, channels=width, dropout_ratio=0, init_cfg=None, **kwargs
        )
        del self.conv_seg  # the texts classify
        self.features = MODELS.build({**head, "num_classes": width, "out_channels": None})
        self.align_corners = self.features.align_corners
        self.background = background
        self.register_buffer("texts", torch.empty(0, width))
        self.register_buffer("words", torch.empty(0, width))
        self.register_buffer("left_out", torch.empty(0), persistent=False)
        self.classify_by(texts, words, self.num_classes, unseen)
        if background == "learnt":
            self.vector = nn.Parameter(torch.randn(1, width) / math.sqrt(width))
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def classify_by(
        self, texts: Tensor, words: Tensor, classes: int, unseen: Sequence[int] = ()
    ) -> None:
        """Take these texts, of classes that may be others than those of the training.

        Args:
            texts: (K, E) of the classes.
            words: (M, E) of the background words.
            classes: 1 + K.
            unseen: 0-based classes that the softmax is without while the head trains.

        Raises:
            InputError: numbers or widths that do not fit one another, or no words that are needed.
        """
        if len(texts) != classes - 1:
            raise InputError(
                f"text_head: there are texts of {len(texts)} classes, but {classes - 1} classes; "
                "make the texts again"
            )
        if texts.shape[1] != self.channels:
            raise InputError(
                f"text_head: texts have the width {texts.shape[1]}, but the head was trained for "
                f"{self.channels}; make the texts with the same CLIP"
            )
        if self.background == "words" and not len(words):
            raise InputError(
                "text_head.background: words, but the texts have none; name a list as background "
                "of the row's texts, or set it to learnt or none"
            )
        left_out = torch.zeros(classes, dtype=torch.bool)
        left_out[[key + 1 for key in unseen]] = True
        self.texts, self.words = texts.float().to(self.texts), words.float().to(self.texts)
        self.left_out = left_out.to(self.texts.device)
        self.num_classes = self.out_channels = classes

    def dense(self, inputs: Sequence[Tensor]) -> Tensor:
        """(B, E, h, w): what is compared with the texts, of any length."""
        return self.features(inputs)

    def logits(self, dense: Tensor) -> Tensor:
        """(B, 1 + K, h, w) of `dense`; in training those of unseen classes are NEVER."""
        rows = [self.texts]
        if self.background != "none":
            own = self.words if self.background == "words" else F.normalize(self.vector, dim=1)
            rows.append(own)
        cosines = torch.einsum(
            "bchw,kc->bkhw", F.normalize(dense, dim=1, eps=LEAST_LENGTH), torch.cat(rows)
        )
        classes, others = cosines.split([len(self.texts), cosines.shape[1] - len(self.texts)], 1)
        scale = self.log_scale.exp()
        if self.background == "none":
            background = torch.full_like(classes[:, :1], NEVER)
        else:
            background = scale * others.amax(dim=1, keepdim=True)
        found = torch.cat([background, scale * classes], dim=1)
        if self.training and self.left_out.any():
            found = found.masked_fill(self.left_out[:, None, None], NEVER)
        return found

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits, (B, num_classes, h, w)."""
        return self.logits(self.dense(inputs))


def with_text_head(
    decode_head: Any, settings: dict, texts: tuple[Tensor, Tensor], unseen: Sequence[int], path: str
) -> dict:
    """The config of a segmentor's decode head, with a TextHead around it.

    Args:
        decode_head: of the segmentor.
        settings: of the entry's `text_head`.
        texts: (K, E) of the classes and (M, E) of the background words.
        unseen: 0-based classes.
        path: the segmentor's file, for messages.

    Raises:
        InputError: the segmentor has several decode heads.
    """
    if not isinstance(decode_head, dict):
        raise InputError(
            f"{path}: model.decode_head: text_head needs a segmentor of one decode head; it has "
            f"{len(decode_head)}"
        )
    head = dict(decode_head)
    return {
        "type": "TextHead",
        "loss_decode": head.pop("loss_decode", None),  # of which its weight is kept
        "head": head,
        "texts": texts[0],
        "words": texts[1],
        "unseen": list(unseen),
        **{key: settings[key] for key in ("background", "scale", "learn_scale") if key in settings},
    }


def read_texts(path: str | Path) -> tuple[Tensor, Tensor]:
    """Features of the classes (K, E) and of the background words (M, E), of an npz of texts.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    arrays = load_npz(Path(path))
    if not {"foreground", "background"} <= arrays.keys():
        raise InputError(f"{path}: must hold foreground and background; make the texts again")
    names = ("foreground", "background")
    for name in names:
        if arrays[name].dtype.kind != "f":
            got = arrays[name].dtype.name
            raise InputError(f"{path}: {name}: must be floats; got {got}; make the texts again")
    parts = [torch.from_numpy(arrays[name]).float() for name in names]
    texts = _fitting(parts[0], parts[1], path)
    for name, part in zip(names, texts, strict=True):
        lengths = part.double().norm(dim=1)
        if not torch.allclose(lengths, torch.ones_like(lengths), atol=0.01, rtol=0):
            raise InputError(
                f"{path}: {name}: every text must have the length 1; got lengths from "
                f"{lengths.min():.3g} to {lengths.max():.3g}; make the texts again"
            )
    return texts


def texts_of_training(path: str | Path, settings: dict, seed: int) -> tuple[Tensor, Tensor]:
    """What a training with these settings of a text head and this seed takes of an npz."""
    texts, words = read_texts(path)
    shuffle = settings.get("shuffle_texts")
    return (texts if shuffle is None else shuffled(texts, shuffle, seed)), words


def texts_of_checkpoint(path: str | Path) -> tuple[Tensor, Tensor]:
    """The same, as a training with a text head left them in its checkpoint.

    Raises:
        InputError: it cannot be read, or was trained without a text head.
    """
    state = read_state(Path(path))
    if not set(_BUFFERS) <= state.keys():
        raise InputError(
            f"{path}: holds no text features; it was trained without text_head, so train again"
        )
    return _fitting(state[_BUFFERS[0]], state[_BUFFERS[1]], path)


def _fitting(texts: Tensor, words: Tensor, path: str | Path) -> tuple[Tensor, Tensor]:
    if texts.ndim != 2 or words.ndim != 2 or texts.shape[1] != words.shape[1] or not len(texts):
        raise InputError(
            f"{path}: text features must be (K, E) and (M, E); got {tuple(texts.shape)} and "
            f"{tuple(words.shape)}; make the texts again"
        )
    if not (texts.isfinite().all() and words.isfinite().all()):
        raise InputError(f"{path}: text features hold NaN or infinity; make the texts again")
    return texts, words


def shuffled(texts: Tensor, shuffle: int, seed: int) -> Tensor:
    """Texts (K, E) among the classes so that none keeps its own: the control of a text head.

    Args:
        texts: of the classes, 2 or more.
        shuffle: seed of the setting `shuffle_texts`.
        seed: of the training, so that trainings of several seeds cover several orders.
    """
    generator = np.random.default_rng((shuffle, seed))
    same = np.arange(len(texts))
    order = same
    while (order == same).any() and len(same) > 1:
        order = generator.permutation(len(same))
    return texts[torch.from_numpy(order)]
