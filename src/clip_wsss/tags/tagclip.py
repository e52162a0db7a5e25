"""TagCLIP (Lin et al., AAAI 2024, arXiv 2312.12828): from patches to the classes of an image.

Three steps. Patches of a last block in which each attends to itself alone are compared with all
texts. Their scores are spread along the attention of earlier blocks, of which two masks keep a
part: entries that several blocks agree on, and per class boxes around what stands out. Then the box
of each likely class is cut out and looked at again, by a CLS token that sees its patches alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from clip_wsss.affinities.box_rule import box_mask
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import min_max
from clip_wsss.core.names import Names
from clip_wsss.core.settings import Location, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext
    from clip_wsss.models.frozen_clip import FrozenClip


class TagClipSettings(Settings):
    """Labels predicted by TagCLIP; the defaults are the paper's for VOC and COCO."""

    model: Annotated[str, Names("model")] = Field(
        description="an entry of `models`, a CLIP of open_clip's own ViTs"
    )
    texts: str = Field(description="an entry of `texts` with a fixed template")
    layers: int = Field(3, ge=1, description="attention maps averaged: of the last n but the last")
    votes: int = Field(
        4,
        ge=0,
        description="blocks whose attention must be above its mean; identity for the last one",
    )
    box_edge: Literal["full", "clamp"] = Field(
        "full", description="clamp: never the last row and column, as in the public code"
    )
    crops: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="weight of the score of a class's own crop; 0: no crops"
    )
    threshold: float = Field(
        0.5, ge=0, lt=1, description="of a tag, between the image's lowest and highest score"
    )
    truth: Location | None = Field(
        None,
        description="what tags are scored by: xml, or a file of labels; null: classes in the masks",
    )


def tagclip(context: MapContext, settings: TagClipSettings) -> Tensor:
    """How sure it is that each class is in the image.

    Args:
        context: the image, with the texts of all C classes of the data set.
        settings: see there.

    Returns:
        (C,) float32 in [0, 1].

    Raises:
        InputError: more blocks are asked for than the tower has.
    """
    import torch

    clip, scores = _clip(context), patch_scores(context)
    refined = spread_tags(
        scores, voted_attention(context, settings), context.grid, settings.box_edge
    )
    found = refined.amax(dim=0)[: len(context.keys)]
    if settings.crops == 0:
        return found
    low, high = refined.min(), refined.max()
    likely = (found > low + settings.threshold * (high - low)).nonzero()[:, 0].tolist()
    crops, seen, cut = [], [], []
    for one in likely:
        box = _box(refined[:, one].unflatten(0, context.grid), settings.box_edge)
        if box is None:
            break  # as the public code, which then leaves the others as they are, too
        crop, patches = _cut(context, *box, clip.native)
        crops.append(crop)
        seen.append(patches)
        cut.append(one)
    if cut:
        features = clip.cls_features(torch.stack(crops), torch.stack(seen))  # (n, E)
        again = (clip.logit_scale * features @ _texts(context).T).softmax(dim=1)
        own = again[range(len(cut)), cut]
        found[cut] = (1 - settings.crops) * found[cut] + settings.crops * own
    return found


def tags(scores: np.ndarray, threshold: float) -> list[int]:
    """The classes above a share of the way from the lowest of the scores (C,) to the highest."""
    low, high = scores.min(), scores.max()
    return np.flatnonzero(scores > low + threshold * (high - low)).tolist() or [
        int(scores.argmax())
    ]


def patch_scores(context: MapContext) -> Tensor:
    """Softmax over all classes and background words of each patch's cosine: (N, C + M) float32.

    In the last block each patch attends to itself alone; its residual and MLP stay.
    """
    clip, x = _clip(context), context.looked.streams[-1]
    patches = clip.rebuilt_patches(x, lambda q, k, v: v, residual=True, ffn=True)[0]  # (N, E)
    return (clip.logit_scale * patches @ _texts(context).T).softmax(dim=1)


def voted_attention(context: MapContext, settings: TagClipSettings) -> Tensor:
    """Mean attention of the last blocks but the last where enough blocks agree: (N, N) float32.

    A block agrees where its attention is above its mean; the last, in which each patch attends to
    itself alone, on the diagonal.
    """
    import torch

    blocks = context.tower.layers
    if settings.layers >= blocks or settings.votes > blocks:
        raise InputError(
            f"dataset.tagclip: layers must be below the {blocks} blocks of its model, and votes at "
            f"most {blocks}; got {settings.layers} and {settings.votes}"
        )
    N = context.grid[0] * context.grid[1]
    votes = torch.eye(N, device=context.tower.device)
    total = torch.zeros_like(votes)
    for block in range(blocks - 1):
        own = context.attention(block)
        votes += own > own.mean()
        if block >= blocks - 1 - settings.layers:
            total += own
    return total / settings.layers * (votes >= settings.votes)


def spread_tags(scores: Tensor, attention: Tensor, grid: tuple[int, int], edge: str) -> Tensor:
    """Scores of patches spread along an attention, within boxes around what then stands out.

    Args:
        scores: (N, T), of which each column has boxes of its own.
        attention: (N, N).
        grid: (gh, gw).
        edge: of `clip_wsss.affinities.box_rule.boxes`.

    Returns:
        (N, T). Masking columns of the attention is masking the scores (SSR's identity).
    """
    maps = min_max((attention @ scores).T.unflatten(1, grid)).cpu().numpy()
    masks = np.stack([box_mask(own, float(own.mean()), edge) for own in maps])
    return attention @ (scores * scores.new_tensor(masks).flatten(1).T)


def _box(scores: Tensor, edge: str) -> tuple[Tensor, int, int, int, int] | None:
    """What is above half the range of a map (gh, gw), and the box around it: y0, y1, x0, x1."""
    above = min_max(scores) > 0.5
    rows, columns = (above.any(dim=axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    if not rows:
        return None
    ends = [rows[-1] + 1, columns[-1] + 1]
    if edge == "clamp":
        ends = [min(end, side - 1) for end, side in zip(ends, above.shape, strict=True)]
    (y0, y1), (x0, x1) = (rows[0], ends[0]), (columns[0], ends[1])
    return (above, y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None


def _cut(
    context: MapContext, above: Tensor, y0: int, y1: int, x0: int, x1: int, native: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """A box of patches at the model's native size, and which of its patches are of the class."""
    import torch.nn.functional as F

    (ph, pw), pixels = context.tower.patch, context.looked.pixels
    crop = pixels[None, :, y0 * ph : y1 * ph, x0 * pw : x1 * pw]
    size = (native[0] * ph, native[1] * pw)
    crop = F.interpolate(crop, size, mode="bilinear", align_corners=False)[0]
    seen = F.interpolate(above[None, None, y0:y1, x0:x1].float(), native, mode="nearest")
    return crop, seen.flatten() > 0


def _texts(context: MapContext) -> Tensor:
    """Features of all classes and background words: (C + M, E)."""
    import torch

    assert context.texts is not None  # a CLIP has them
    assert context.background is not None
    return torch.cat([context.texts, context.background])


def _clip(context: MapContext) -> FrozenClip:
    tower: FrozenClip = context.tower  # type: ignore[assignment] # the config allows no other
    return tower
