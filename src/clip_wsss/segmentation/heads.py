"""What MMSegmentation has no head for: DeepLabV2, with its multi-scale inputs, and the tokens of a
frozen CLIP.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """ASPP of DeepLabV2: the sum of dilated 3x3 convolutions with bias, one a rate.

    Args:
        rates: dilations.
        **kwargs: of BaseDecodeHead (in_channels, num_classes, in_index, loss_decode, ...).
    """

    def __init__(self, rates: tuple[int, ...] = (6, 12, 18, 24), **kwargs):
        init = {"type": "Normal", "layer": "Conv2d", "std": 0.01}
        super().__init__(channels=1, dropout_ratio=0, init_cfg=init, **kwargs)
        del self.conv_seg  # the base's 1x1 classifier: the dilated ones classify
        self.convs = nn.ModuleList(
            nn.Conv2d(self.in_channels, self.num_classes, 3, padding=rate, dilation=rate)
            for rate in rates
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits, (N, num_classes, h, w), of the feature map at in_index."""
        features = self._transform_inputs(inputs)
        return sum(conv(features) for conv in self.convs)


@MODELS.register_module()
class MultiScaleSegmentor(EncoderDecoder):
    """DeepLabV2's MSC: the maximum of the logits of an image at several sizes.

    In training each scale and the maximum have a loss of their own, on the labels resized
    (nearest) to the size of their logits.

    Args:
        scales: sizes beside 1.
        **kwargs: of EncoderDecoder.
    """

    def __init__(self, scales: tuple[float, ...] = (0.75, 0.5), **kwargs):
        super().__init__(**kwargs)
        self.scales = scales

    def _all_logits(self, inputs: Tensor) -> list[Tensor]:
        """Logits at 1, at each of the scales, and their maximum at the size of the first."""
        images = [
            inputs,
            *(F.interpolate(inputs, scale_factor=s, mode="bilinear") for s in self.scales),
        ]
        logits = [self.decode_head(self.extract_feat(image)) for image in images]
        size = logits[0].shape[2:]
        largest = torch.stack([resize(x, size, mode="bilinear") for x in logits]).amax(0)
        return [*logits, largest]

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch, named after the scale.

        Args:
            inputs: images, (N, 3, H, W).
            data_samples: N SegDataSample with gt_sem_seg (1, H, W).
        """
        losses = {}
        for name, logits in zip([1, *self.scales, "max"], self._all_logits(inputs), strict=True):
            samples = [_resized(sample, logits.shape[2:]) for sample in data_samples]
            for key, value in self.decode_head.loss_by_feat(logits, samples).items():
                losses[f"scale_{name}.{key}"] = value
        return losses

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits at the size of the images, (N, num_classes, H, W)."""
        return self.decode_head.predict_by_feat(self._all_logits(inputs)[-1], batch_img_metas)

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        return self._all_logits(inputs)[-1]


def _resized(sample: SegDataSample, size: tuple[int, ...]) -> SegDataSample:
    """A sample with the labels at `size`, taken at the centres of the new pixels, as PIL does.

    float32 holds packed labels exactly (`losses.pack`).
    """
    labels = sample.gt_sem_seg.data  # (1, H, W)
    small = F.interpolate(labels[None].float(), size=tuple(size), mode="nearest-exact")[0]
    return SegDataSample(gt_sem_seg=PixelData(data=small.to(labels.dtype)))


@MODELS.register_module()
class TokenHead(BaseDecodeHead):
    """A light decoder on the outputs of `FrozenCLIPBackbone`.

    The tokens of the blocks are projected and mixed on CLIP's grid, then brought to a quarter of
    the image's resolution, where features of the image itself (a shallow stem) say where the edges
    are. Both steps only add to the projection, so that it learns as fast as a linear classifier.

    Args:
        in_channels: 3 for the image, then the width of each block's tokens.
        channels: of the features.
        stem_channels: of the image's features.
        **kwargs: of BaseDecodeHead.
    """

    def __init__(self, in_channels: list[int], channels: int, stem_channels: int, **kwargs):
        super().__init__(
            in_channels=in_channels,
            in_index=list(range(len(in_channels))),
            input_transform="multiple_select",
            channels=channels,
            **kwargs,
        )
        self.project = nn.Conv2d(sum(in_channels[1:]), channels, 1)
        self.mix = _block(channels, channels)
        self.stem = nn.Sequential(
            _block(3, stem_channels, stride=2), _block(stem_channels, stem_channels, stride=2)
        )
        self.join = _block(channels + stem_channels, channels)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits, (N, num_classes, H / 4, W / 4)."""
        image, *tokens = self._transform_inputs(inputs)
        coarse = self.project(torch.cat(tokens, dim=1))
        coarse = coarse + self.mix(coarse)
        edges = self.stem(image)
        fine = resize(coarse, edges.shape[2:], mode="bilinear", align_corners=False)
        return self.cls_seg(fine + self.join(torch.cat([fine, edges], dim=1)))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm (the same for any batch), ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.GroupNorm(math.gcd(8, outputs), outputs),
        nn.ReLU(inplace=True),
    )
