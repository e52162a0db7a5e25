"""The segmentor: one pass of the frozen ViT, a decoder, and labels made online."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmseg.registry import MODELS
from torch import Tensor

from clip_wsss.cams.passes import read_text_features
from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import method
from clip_wsss.core.ranks import gather_batch, sharing
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.labels.online import WeCLIPSettings, read_settings
from clip_wsss.labels.weclip_labels import Seen
from clip_wsss.models.clip import load_clip
from clip_wsss.segmentation.affinity_loss import (
    affinity_label,
    affinity_loss,
    pixel_loss,
)
from clip_wsss.segmentation.views import fit_long_side
from clip_wsss.segmentation.weclip.decoder import affinity

log_ = logging.getLogger(__name__)

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and deviation of RGB


@MODELS.register_module()
class WeCLIP(BaseModel):
    """A decoder on a frozen CLIP, trained on labels made in every step (docs/weclip.md).

    Nothing of CLIP is trained, nor stored in a checkpoint. A checkpoint does hold how many
    batches were trained on, so that a resumed training starts the dynamic phase, and draws its
    dropout, where an unbroken one does.

    Args:
        backbone: of CLIP: architecture, weights, round_weights, position_embedding, precision.
        decode_head: MMEngine config of the decoder, whose `forward` and `draw` are those of
            `WeCLIPHead`; `in_channels` is filled in.
        data_preprocessor: MMEngine config; mean and deviation are filled in.
        settings: see `WeCLIPSettings`.
        labels: `method`, a maker of labels, and its settings.
        texts: npz of text features (`clip_wsss.prompts.texts`); prediction does without.
        train_cfg: MMSegmentation's; not used.
        test_cfg: likewise.

    Raises:
        InputError: settings or text features that cannot be used.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        data_preprocessor: dict,
        settings: dict | None = None,
        labels: dict | None = None,
        texts: str | Path | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
    ):
        own = read_settings(WeCLIPSettings, settings, "model.settings")
        model = {"round_weights": "none"} | backbone
        parts = ("library", "architecture", "weights", "round_weights", "text_features")
        clip = load_clip(
            {key: model.get(key) for key in parts},
            precision=model.get("precision", "float32"),
            position_embedding=model.get("position_embedding"),
            device=get_device(),
        )
        mean, std = IMAGENET if own.statistics == "imagenet" else (clip.mean * 255, clip.std * 255)
        statistics = {"mean": [float(x) for x in mean], "std": [float(x) for x in std]}
        super().__init__(data_preprocessor={**data_preprocessor, **statistics})
        self._frozen = (clip,)  # a tuple hides it from parameters() and state_dict()
        self.settings = own
        channels = [clip.width] * (clip.layers - 1)
        self.decode_head = MODELS.build({**decode_head, "in_channels": channels})
        given = dict(labels or {})
        maker = method("labels", given.pop("method", "weclip"))
        if unused := given.keys() - maker.fields.keys():
            raise InputError(f"model.labels.{min(unused)}: unknown key; docs/weclip.md lists them")
        make = maker.bound(given)
        self._labels = None if texts is None else make(read_text_features(Path(texts), clip))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))
        self.register_buffer("dropout_seed", torch.randint(2**62, ()))
        # Batches in which the public code's loss would be 0 / 0, and the first such update.
        self.register_buffer("public_nan", torch.zeros(2, dtype=torch.int64))

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor]:
        """Logits on the grid (B, C, gh, gw), or with mode `loss` the losses of a batch.

        Args:
            inputs: (B, 3, H, W) float32, normalised.
            data_samples: for `loss`: gt_sem_seg (1, H, W), 255 in the padding, and `class_keys`,
                the 0-based classes of the image, in the metainfo.
            mode: tensor or loss.
        """
        if mode == "loss":
            assert data_samples is not None  # `loss` has them
            return self.loss(inputs, data_samples)
        streams, _, grid = self._look(inputs, 0)
        return self.decode_head(_tokens(streams), grid)[0]

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """loss_seg and loss_aff of a batch; see `forward`. One process and several agree."""
        if self._labels is None:
            raise InputError("model.texts: training needs text features; make the texts first")
        self.forwards += 1
        update = int(self.forwards)
        streams, attention, grid = self._look(inputs, self._labels.layers)
        logits, features = self.decode_head(_tokens(streams), grid, self._dropout(len(inputs)))
        with torch.autocast(inputs.device.type, enabled=False):
            own = affinity(features)
            padding = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples]) == IGNORE
            keys = [sample.metainfo["class_keys"] for sample in data_samples]
            seen = Seen(
                clip=self._frozen[0],
                images=inputs,
                size=(inputs.shape[2], inputs.shape[3]),
                grid=grid,
                streams=streams,
                attention=attention,
                keys=keys,
                affinity=own.detach(),
                padding=padding,
                update=update,
            )
            label = self._labels(seen)
            self._count_nan(gather_batch(label), update)
            full = F.interpolate(
                logits.float(), label.shape[1:], mode="bilinear", align_corners=False
            )
            pairs = affinity_label(label, grid, self.settings.affinity_radius)
            return {
                "loss_seg": pixel_loss(self.decode_head.loss_decode, full, label),
                "loss_aff": self.settings.affinity_weight * affinity_loss(own, pairs),
            }

    @torch.no_grad()
    def final_scores(
        self, rgb: np.ndarray, keys: Sequence[int], long_side: int | None = None
    ) -> Tensor:
        """Scores of a whole image by a finished training, whose labels WeCLIP's tables quote.

        Args:
            rgb: (H, W, 3) uint8.
            keys: its classes, 0-based.
            long_side: what the ViT sees: the image with this long side (512 in the public test
                script), or at its own size (in its training script).

        Returns:
            (1 + K, H, W) in [0, 1], background first: the maker's `final`.
        """
        assert self._labels is not None  # a finished training has texts
        bgr = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
        image = self.data_preprocessor({"inputs": [bgr]})["inputs"]
        image = image if long_side is None else fit_long_side(image, long_side)
        streams, attention, grid = self._look(image, self._labels.layers)
        features = self.decode_head(_tokens(streams), grid)[1]
        padding = torch.zeros(1, *rgb.shape[:2], dtype=torch.bool, device=image.device)
        seen = Seen(
            clip=self._frozen[0],
            images=image,
            size=rgb.shape[:2],
            grid=grid,
            streams=streams,
            attention=attention,
            keys=[list(keys)],
            affinity=affinity(features),
            padding=padding,
            update=None,
        )
        return self._labels.final(seen)

    def _look(self, inputs: Tensor, maps: int) -> tuple[list[Tensor], Tensor, tuple[int, int]]:
        """The one pass of the frozen ViT: streams, attention maps, grid."""
        clip = self._frozen[0]
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            image, size = inputs.float(), tuple(inputs.shape[2:])
            if self.settings.grid == "ceil":
                gh, gw = clip.grid(size)
                fitted = gh * clip.patch[0], gw * clip.patch[1]
                if fitted != size:
                    image = F.interpolate(image, fitted, mode="bilinear", align_corners=False)
            streams, attention = clip.streams(image, maps)
        grid = image.shape[2] // clip.patch[0], image.shape[3] // clip.patch[1]
        return streams, attention, grid

    def _dropout(self, count: int) -> Tensor | None:
        """What `WeCLIPHead` multiplies its features by in this batch; None if it is not trained.

        Drawn for the samples of all ranks, of which sample i of rank r is number i * ranks + r
        (`CountingSampler`), so that several processes drop what one would.
        """
        if not self.training:
            return None
        state = np.random.SeedSequence((int(self.dropout_seed), int(self.forwards)))
        generator = torch.Generator().manual_seed(int(state.generate_state(1, np.uint64)[0] >> 1))
        rank, ranks = sharing()
        keep = self.decode_head.draw(count * ranks, generator)[rank::ranks]
        return keep.to(self.forwards.device)

    def _count_nan(self, label: Tensor, update: int) -> None:
        background, foreground = label == 0, (label > 0) & (label != IGNORE)
        if background.any() and foreground.any():
            return
        self.public_nan[0] += 1
        if self.public_nan[0] == 1:
            self.public_nan[1] = update
            log_.warning(
                "update %d: the batch has no %s pixel; the public code's loss would be NaN from "
                "here on, this one leaves that part out",
                update,
                "foreground" if background.any() else "background",
            )


def _tokens(streams: list[Tensor]) -> list[Tensor]:
    """Patch tokens, float32, without CLS."""
    return [x[:, 1:].float() for x in streams]
