"""The maker of SSR's labels: CMPA's CAMs, refined by the affinity of the row (docs/ssr.md)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.cams.context import Look, MapContext
from clip_wsss.core.methods import method
from clip_wsss.labels.cmpa import (
    IMAGES,
    TEXTS,
    AlignedClip,
    Cmpa,
    kmeans,
    prototype_loss,
    still,
)
from clip_wsss.labels.weclip_labels import Seen, WeCLIPLabels
from clip_wsss.models.tower import HELD, Clip

if TYPE_CHECKING:
    from clip_wsss.labels.ssr import SsrSettings


class SSRLabels(WeCLIPLabels):
    """GradCAM of aligned features, refined by an affinity of the suite; then as in WeCLIP.

    It learns with the decoder (`clip_wsss.labels.weclip_labels.Learning`). What is `kept` are the
    clusters of all samples, (2, images, C) int16, -1 for a class that an image does not have.

    Args:
        settings: see `SsrSettings`.
        texts: features of the classes (C, E) and of the background words (M, E), float32.
    """

    settings: SsrSettings  # type: ignore[assignment]  # which has what of WeCLIP's is used

    def __init__(self, settings: SsrSettings, texts: tuple[Tensor, Tensor]):
        self.settings, (self.foreground, self.background) = settings, texts
        self.layers = HELD  # what an affinity finds at hand
        self.trained = Cmpa(settings, texts[0].shape[1], len(texts[0]))
        self.every = settings.every
        self.kept = torch.zeros(2, 0, len(texts[0]), dtype=torch.int16)
        entry = settings.affinity
        self.affinity = method("affinity", entry["method"]).bound(entry)

    def scored_by(self, seen: Seen) -> tuple[Clip, Tensor, Tensor]:
        """CLIP, or once it is time the aligned one, and the texts that go with it."""
        own = self.settings
        early = seen.update is not None and seen.update <= own.projected_start
        if own.score == "clip" or early:
            return super().scored_by(seen)
        with still(self.trained):
            classes, words = self._aligned_texts()
        return cast(Clip, AlignedClip(seen.clip, self.trained)), classes, words

    def propagated(self, seen: Seen) -> list[Tensor]:
        """CAMs (K, gh, gw) of each image, refined by the affinity of the row.

        Images side by side in threads: SLIC, most of the time, holds no lock and runs on a CPU.
        """
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(lambda place: self._refined(seen, place), range(len(seen.cams))))

    @torch.no_grad()  # which each thread has of its own
    def _refined(self, seen: Seen, place: int) -> Tensor:
        cam = seen.cams[place]
        clip, keys = seen.clip, list(seen.keys[place])
        picture = seen.picture(place)
        pixels = torch.from_numpy(picture).to(cam).permute(2, 0, 1) / 255
        mean, std = (cam.new_tensor(x)[:, None, None] for x in (clip.mean, clip.std))
        size = [n * side for n, side in zip(seen.grid, clip.patch, strict=True)]
        pixels = F.interpolate(((pixels - mean) / std)[None], size, mode="bilinear")[0]
        looked = Look(
            tower=clip,
            _pixels=pixels,
            grid=seen.grid,
            streams=[x[place : place + 1] for x in seen.streams],
            _held=seen.attention[place],
            _complete=True,
        )
        context = MapContext(
            id="",
            image=picture,
            keys=keys,
            texts=self.foreground[keys].to(cam.device),
            background=self.background.to(cam.device),
            looked=looked,
            maps=cam,
            towers=seen.towers,
        )
        return self.affinity(context)

    @torch.no_grad()
    def sample(self, seen: Seen) -> Tensor:
        """f_image of each class of one whole image: (K, D)."""
        (cam,), _ = self.cams(seen)
        with still(self.trained):
            return self.trained.samples(seen.clip.patches(seen.streams[-1], seen.grid), [cam])[0]

    @torch.no_grad()
    def learn(self, keys: Sequence[Sequence[int]], samples: Tensor) -> None:
        """Cluster f_image (S, D) and f_text of all images, and take the means as prototypes.

        Both k-means start from the classes, so that a cluster has the index of a class and the two
        kinds of clusters face each other.
        """
        cmpa, own = self.trained, self.settings
        classes = torch.tensor([key for image in keys for key in image])
        images = torch.repeat_interleave(
            torch.arange(len(keys)), torch.tensor([len(image) for image in keys])
        )
        with still(cmpa):
            texts = self._aligned_texts()[0].cpu()
        count = len(self.foreground)
        self.kept = torch.full((2, len(keys), count), -1, dtype=torch.int16)
        for kind, points in ((IMAGES, samples.cpu()), (TEXTS, texts[classes])):
            means, found = kmeans(points.double(), classes, count, own.rounds)
            cmpa.prototypes[kind] = cmpa.aligned(means.float())
            self.kept[kind, images, classes] = found.to(torch.int16)

    def losses(self, seen: Seen, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """L_proto, in both directions, beside the others, of which L_seg is weighted."""
        cmpa, own = self.trained, self.settings
        patches = seen.clip.patches(seen.streams[-1], seen.grid)
        classes = torch.tensor([key for keys in seen.keys for key in keys], device=patches.device)
        images = torch.cat(cmpa.samples(patches, seen.cams))
        texts = self._aligned_texts()[0][classes]
        targets = [classes, classes]
        if own.pseudo_label == "cluster":
            places = [n for n, keys in zip(seen.numbers, seen.keys, strict=True) for _ in keys]
            targets = [*self.kept[:, places, classes.cpu()].long().to(classes.device)]
        of_images = prototype_loss(images, cmpa.prototypes[TEXTS], targets[IMAGES], cmpa.tau)
        of_texts = prototype_loss(texts, cmpa.prototypes[IMAGES], targets[TEXTS], cmpa.tau)
        both = (1 - own.text_share) * of_images + own.text_share * of_texts
        return {
            **losses,
            "loss_seg": own.label_weight * losses["loss_seg"],
            "loss_proto": own.prototype_weight * both,
        }

    def _aligned_texts(self) -> tuple[Tensor, Tensor]:
        """TSA of all classes (C, D) and of the background words (M, D).

        Both go through it together, so that its batch norm sees both.
        """
        cmpa, both = self.trained, torch.cat([self.foreground, self.background])
        found = cmpa.aligned(cmpa.tsa(both.to(cmpa.prototypes.device)))
        return found[: len(self.foreground)], found[len(self.foreground) :]
