"""A segmentor with a text head that a frozen CLIP teaches (docs/zero-shot.md)."""

import torch
from mmengine.device import get_device
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor

from clip_wsss.labels.online import read_settings
from clip_wsss.labels.teacher_settings import TeacherSettings
from clip_wsss.models.clip import load_for
from clip_wsss.segmentation.teacher.frozen import Teacher, inside_of, shrunk
from clip_wsss.segmentation.teacher.glm import GLMHead
from clip_wsss.segmentation.teacher.losses import non_exclusive_loss
from clip_wsss.segmentation.teacher.plm import PLMSampler


@MODELS.register_module()
class TeacherSegmentor(EncoderDecoder):
    """An EncoderDecoder with a `TextHead`, and in training what CLIP teaches its pixels.

    Nothing of CLIP is trained, nor stored in a checkpoint. A checkpoint does hold the bank of
    `GLMHead` and the synthesiser of `PLMSampler`, which predictions do without.

    Args:
        teacher: see `TeacherSettings`.
        clip: the frozen CLIP that the texts are of, an entry of `models` with precision and
            position_embedding; None: only predictions are wanted.
        **kwargs: of EncoderDecoder.
    """

    unneeded = ("glm.", "plm.")  # of a checkpoint, for predictions

    def __init__(self, teacher: dict | None = None, clip: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        if clip is None:
            return
        self.settings = read_settings(TeacherSettings, teacher, "segmentation.teacher")
        self._frozen = Teacher(load_for(clip, clip, get_device()), self.settings.image)
        width = self.decode_head.texts.shape[1]
        self.glm = None if self.settings.glm is None else GLMHead(self.settings.glm, width)
        self.plm = None if self.settings.plm is None else PLMSampler(self.settings.plm, width)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch.

        With PLM the run's own loss is of labels and logits with pseudo classes; the pixels that it
        fills are those that the loss would leave out, ignored ones and, with a mu, those of a
        lower confidence.

        Args:
            inputs: crops, (B, 3, H, W), normalised.
            data_samples: B SegDataSample with gt_sem_seg (1, H, W), labels and confidences packed.
        """
        maps = self.extract_feat(inputs)
        head = self.decode_head
        features = head.dense(maps)  # R
        logits = head.logits(features)
        inside = inside_of(data_samples, inputs.shape[2:], inputs.device)
        tokens = None if self.plm is None else self.plm.settings.tokens
        seen = self._frozen.look(self._pixels(inputs), inside, tokens)
        losses = {}
        with torch.autocast(inputs.device.type, enabled=False):
            if self.plm is None:
                losses["decode.loss_seg"] = head.loss_by_feat(logits, data_samples)["loss_seg"]
            else:
                losses |= self._filled(features, logits, data_samples, inside, seen)
            if self.glm is not None:
                small = shrunk(inside, features.shape[2:])
                losses["teacher.loss_global"] = self.glm(features, seen.cls, small)
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(maps, data_samples))
        return losses

    def _filled(self, features, logits, data_samples, inside, seen) -> dict[str, Tensor]:
        """The run's loss, L_nel and L_bce, of labels that PLM has filled."""
        assert self.plm is not None  # which this is for
        head, loss = self.decode_head, self.decode_head.loss_decode
        label = torch.stack([sample.gt_sem_seg.data for sample in data_samples])  # (B, 1, H, W)
        confidence = head.sampler.sample(logits, label)
        label = label.squeeze(1)
        empty = inside & ((label == head.ignore_index) | (confidence < loss.mu))
        classes = (~head.left_out[1:]).nonzero()[:, 0] + 1
        texts, scale = head.texts[classes - 1], head.log_scale.exp()
        found = self.plm(
            features,
            logits,
            label,
            empty,
            seen.tokens,
            seen.inside,
            seen.cls,
            texts,
            classes,
            scale,
        )
        full = resize(
            found.logits, label.shape[1:], mode="bilinear", align_corners=head.align_corners
        )
        confidence = confidence.where(~empty, 1)
        exclusive = full.masked_fill(~found.there[..., None, None], -torch.inf)
        nel = non_exclusive_loss(full, found.label, found.there, self.plm.settings.nel)
        before = loss.pixels
        own = loss(exclusive, found.label, confidence, head.ignore_index)
        # What counts is what the masks say: pseudo classes alone teach no class.
        loss.pixels = before + (~empty & (label != head.ignore_index)).sum()
        return {
            "decode.loss_seg": own,
            "teacher.loss_nel": nel,
            "teacher.loss_bce": found.loss,
        }

    def _pixels(self, inputs: Tensor) -> Tensor:
        """Crops (B, 3, H, W) float32 as RGB in [0, 255]."""
        given = self.data_preprocessor
        pixels = inputs.float() * given.std + given.mean
        return pixels if given.channel_conversion else pixels.flip(1)
