"""CMPA, the cross-modal prototype alignment of SSR (arXiv 2512.01701; docs/ssr.md).

Two small networks, ISA for patches and TSA for texts, are trained so that what an image shows of a
class comes near the prototype of its text, and the text near the prototype of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_wsss.core.ranks import of_all, with_gradient

if TYPE_CHECKING:
    from clip_wsss.labels.ssr import CmpaSettings
    from clip_wsss.models.tower import Clip

IMAGES, TEXTS = 0, 1  # places in what there is one of for either


class Cmpa(nn.Module):
    """ISA, TSA, the temperature and the prototypes.

    Attributes:
        isa: features of patches (n, E) -> (n, D).
        tsa: features of texts (n, E) -> (n, D).
        log_tau: (), the temperature's logarithm; a parameter if it is learnt.
        prototypes: (2, C, D) float32, of the images' clusters and of the texts'; 0 for a class that
            no image has, and before the first clustering.
    """

    prototypes: Tensor

    def __init__(self, settings: CmpaSettings, width: int, classes: int):
        super().__init__()
        self.settings = settings
        self.isa, self.tsa = (Network(settings, width) for _ in range(2))
        tau = torch.tensor(settings.tau)
        self.log_tau = nn.Parameter(tau.log(), requires_grad=settings.learn_tau)
        self.register_buffer("prototypes", torch.zeros(2, classes, self.isa.width))

    @property
    def tau(self) -> Tensor:
        """The temperature, a scalar."""
        return self.log_tau.exp()

    def aligned(self, features: Tensor) -> Tensor:
        """Features (..., D), of length 1 if they are to be."""
        return F.normalize(features, dim=-1) if self.settings.normalise else features

    def samples(self, patches: Tensor, cams: list[Tensor]) -> list[Tensor]:
        """f_image: ISA's patches pooled by the CAMs of each class.

        Args:
            patches: (B, N, E) float32.
            cams: (K, gh, gw) of each image, in [0, 1].

        Returns:
            (K, D) for each image.
        """
        own = self.isa(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return [
            self.aligned(masked_average(values, cam.flatten(1), self.settings.pooled_from))
            for values, cam in zip(own, cams, strict=True)
        ]


class Network(nn.Sequential):
    """ISA or TSA: linear, BN, ReLU, ...; what it gives may be added to what it gets.

    With `residual` the last layer is linear, of the width E of the features, and starts as 0, so
    that aligned features start as CLIP's.

    Attributes:
        width: D, of what it gives.
    """

    def __init__(self, settings: CmpaSettings, width: int):
        layers: list[nn.Module] = []
        given = width if settings.residual else settings.width
        for one, next_ in pairwise([width, *[settings.width] * (settings.depth - 1), given]):
            layers += [nn.Linear(one, next_), nn.BatchNorm1d(next_), nn.ReLU()]
        linear = settings.residual or settings.last == "linear"
        super().__init__(*(layers[:-2] if linear else layers))
        self.residual, self.width = settings.residual, given
        if self.residual:
            for parameter in self[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(n, E) -> (n, D)."""
        return x + super().forward(x) if self.residual else super().forward(x)


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Batch norms by their running statistics, without a change of them."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


class AlignedClip:
    """A CLIP that is scored by <ISA(v), TSA(t)> / tau in the place of CLIP's own logits.

    All else is the CLIP's.
    """

    def __init__(self, clip: Clip, cmpa: Cmpa):
        self._clip, self._cmpa = clip, cmpa
        self.logit_scale = float(1 / cmpa.tau)

    def __getattr__(self, name: str):
        return getattr(self._clip, name)

    def project(self, pooled: Tensor) -> Tensor:
        """(B, D) float32 of `pooled`, differentiable; see `clip_wsss.models.tower.Clip`."""
        with still(self._cmpa):
            return self._cmpa.aligned(self._cmpa.isa(self._clip.project(pooled)))


def masked_average(values: Tensor, cams: Tensor, least: float = 0.0) -> Tensor:
    """Means of patches weighted by CAMs.

    Args:
        values: (N, D).
        cams: (K, N) >= 0.
        least: a CAM below this counts as 0.

    Returns:
        (K, D); 0 where a CAM is 0 all over.
    """
    weights = cams.where(cams >= least, 0)
    return weights @ values / weights.sum(dim=1, keepdim=True).clamp(min=1e-8)


def kmeans(points: Tensor, first: Tensor, count: int, rounds: int) -> tuple[Tensor, Tensor]:
    """k-means from given clusters, without chance.

    Args:
        points: (S, D) float64.
        first: (S,) int64, the clusters that the means are first taken of, 0 to count - 1.
        count: of clusters.
        rounds: at most; 0: the means of `first`.

    Returns:
        The means (count, D), and the nearest of each point (S,) int64, the first of equals. A
        cluster that loses its points keeps its mean; one that never had any has 0 and gets none.
    """
    labels = first
    means = points.new_zeros(count, points.shape[1])
    filled = torch.bincount(first, minlength=count) > 0
    for rest in range(rounds, -1, -1):
        members = F.one_hot(labels, count).to(points)  # (S, count)
        sizes = members.sum(dim=0)[:, None]
        means = torch.where(sizes > 0, members.T @ points / sizes.clamp(min=1), means)
        far = (
            means.square().sum(dim=1) - 2 * points @ means.T
        )  # less |point|^2, which is each one's
        nearest = far.masked_fill(~filled, torch.inf).argmin(dim=1)
        if not rest or torch.equal(nearest, labels):
            break
        labels = nearest
    return means, nearest


def prototype_loss(features: Tensor, prototypes: Tensor, targets: Tensor, tau: Tensor) -> Tensor:
    """Cross entropy of <feature, prototype> / tau, the mean over the samples of all ranks.

    Args:
        features: (S, D).
        prototypes: (C, D); one that is 0 does not take part.
        targets: (S,) int64, each sample's prototype.
        tau: scalar > 0.

    Returns:
        A scalar; log(1 + exp(-1 / tau)) for two orthogonal prototypes, and features at their own.
    """
    absent = ~prototypes.any(dim=1)
    logits = (features @ prototypes.T / tau).masked_fill(absent, -torch.inf)
    losses = F.cross_entropy(logits, targets, reduction="none")
    count = of_all(features.new_tensor(len(features))).clamp(min=1)
    own = losses.where(~absent[targets], 0).sum()
    return with_gradient(of_all(own) / count, own / count)
