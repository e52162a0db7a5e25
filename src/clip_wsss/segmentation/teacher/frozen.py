"""What the frozen CLIP of a training sees in the crops that the student sees."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.core.errors import InputError
from clip_wsss.models.frozen_clip import FrozenClip
from clip_wsss.models.tower import Clip


@dataclass(frozen=True)
class Taught:
    """A batch as the frozen CLIP sees it.

    Attributes:
        cls: S, (B, E) float32, normalised.
        tokens: D, (B, E, gh, gw) float32, normalised; None if they are not wanted.
        inside: (B, gh, gw) bool, tokens that are not padding.
    """

    cls: Tensor
    tokens: Tensor | None
    inside: Tensor


class Teacher:
    """A frozen CLIP; no module, so that it is neither trained nor stored in a checkpoint.

    Args:
        clip: of `models`, with text features of the same.
        image: crop: it sees a crop at its own size, sides stretched to whole patches; native:
            resized to the size that it was trained on.

    Raises:
        InputError: a CLIP of another library than open_clip.
    """

    def __init__(self, clip: Clip, image: str):
        if not isinstance(clip, FrozenClip):
            raise InputError(
                "segmentation.teacher: needs a CLIP of library open_clip, whose CLS can be kept "
                "from seeing padding; name another model in the row's cam"
            )
        self.clip, self.image = clip, image

    @torch.no_grad()
    def look(self, crops: Tensor, inside: Tensor, tokens: str | None) -> Taught:
        """CLS features, for which CLS looks at no patch of padding, and tokens if they are wanted.

        Args:
            crops: (B, 3, H, W) float32 RGB in [0, 255].
            inside: (B, H, W) bool, pixels that are not padding.
            tokens: values: of the last block's attention, projected; output: of the last block;
                None: without.
        """
        clip = self.clip
        with torch.autocast(crops.device.type, enabled=False):
            mean, std = (
                torch.from_numpy(one).to(crops.device)[:, None, None]
                for one in (clip.mean, clip.std)
            )
            batch = (crops.float() / 255 - mean) / std
            grid = clip.native if self.image == "native" else clip.grid(crops.shape[2:])
            size = (grid[0] * clip.patch[0], grid[1] * clip.patch[1])
            if size != tuple(crops.shape[2:]):
                batch = F.interpolate(
                    batch, size, mode="bilinear", align_corners=False, antialias=True
                )
            seen = shrunk(inside, grid)
            cls = clip.cls_features(batch, seen.flatten(1))
            found = None
            if tokens is not None:
                stream, _ = clip.trunk(batch, 0)
                found = (
                    clip.patches(stream)
                    if tokens == "output"
                    else clip.rebuilt_patches(stream, _values, residual=False, ffn=False)
                )
                found = found.transpose(1, 2).unflatten(2, grid)
        return Taught(cls, found, seen)


def _values(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v


def inside_of(samples: list, size: tuple[int, ...], device: torch.device) -> Tensor:
    """(B, H, W) bool: pixels of a batch that are not padding.

    Args:
        samples: of MMSegmentation, whose `img_shape` says what lies at the top left.
        size: (H, W) of the padded batch.
        device: of the answer.
    """
    shapes = torch.tensor([sample.metainfo["img_shape"][:2] for sample in samples], device=device)
    rows, columns = (torch.arange(side, device=device) for side in size)
    return (rows < shapes[:, :1])[:, :, None] & (columns < shapes[:, 1:])[:, None]


def shrunk(inside: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, gh, gw) bool: places of a grid over (B, H, W) that hold a pixel that is not padding."""
    return F.adaptive_max_pool2d(inside.float(), tuple(grid)) > 0
