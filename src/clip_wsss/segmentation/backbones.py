"""Backbones that MMSegmentation does not have."""

import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.model import BaseModule
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from torch import Tensor

from clip_wsss.models.clip import load_clip


@MODELS.register_module()
class FrozenCLIPBackbone(BaseModule):
    """The patch tokens of a frozen CLIP, block by block (the idea of Frozen CLIP / WeCLIP).

    It has no parameters as far as MMEngine can see: nothing of CLIP is trained, nor stored in a
    checkpoint, which therefore holds the decoder only and needs the same CLIP file again.

    Args:
        model: CLIP, an entry of the config's `models`; the segmentor's file says its name, in the
            place of which `build_model` puts the entry.
        blocks: whose outputs are wanted, counted from 0; negative ones from the end.
        position_embedding: as in the config's `cam` entries.
    """

    def __init__(
        self,
        model: dict,
        blocks: tuple[int, ...] = (-1,),
        position_embedding: dict | None = None,
    ):
        super().__init__()
        clip = load_clip(model, position_embedding=position_embedding, device=get_device())
        self._frozen = (clip,)  # a tuple hides it from parameters() and state_dict()
        depth = clip.layers
        if strange := [block for block in blocks if not -depth <= block < depth]:
            raise ValueError(f"blocks: {strange[0]} must be in {-depth}..{depth - 1}")
        self.blocks = blocks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Feature maps.

        Args:
            image: (N, 3, H, W), normalised with CLIP's mean and deviation.

        Returns:
            The image itself, for a decoder that wants its edges, and for each block
            (N, D, gh, gw) float32, every token normalised to mean 0 and deviation 1. Sides that
            are not a whole number of patches are stretched to the next.
        """
        clip = self._frozen[0]
        gh, gw = clip.grid(image.shape[2:])
        size = (gh * clip.patch[0], gw * clip.patch[1])
        fitted = image
        if size != tuple(image.shape[2:]):
            fitted = F.interpolate(image, size, mode="bilinear", align_corners=False)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            outputs = clip.block_outputs(fitted.float())
            tokens = [F.layer_norm(outputs[i].float(), outputs[i].shape[-1:]) for i in self.blocks]
        maps = [x.transpose(1, 2).unflatten(2, (gh, gw)) for x in tokens]
        return image, *maps


@MODELS.register_module()
class CaffeResNet(ResNet):
    """The ResNet of DeepLab's COCO weights: stride in the first 1x1, pooling that rounds up."""

    def __init__(self, **kwargs):
        super().__init__(style="caffe", **kwargs)
        self.maxpool.ceil_mode = True
