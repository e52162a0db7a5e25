"""The lattice of `clip_wsss.fast_crf` in torch, for images in batches on a GPU.

Same coordinates, keys and blur; sums run in another order, so probabilities differ in their last
digits and labels are the same. On a CPU it is slower than pydensecrf.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch

from clip_wsss import fast_crf
from clip_wsss.errors import InputError

LIMIT = 32000  # pydensecrf keeps a coordinate in 16 bits


class Lattice:
    """Permutohedral lattice of a set of features (Adams, Baek and Davis, 2010).

    Args:
        features: (N, d) float32, divided by the standard deviations.
        group: (N,) int64, from 0; features of different groups share no point.
        count: only the first so many features are filtered; the others only make points.

    Raises:
        OverflowError: the keys do not fit 63 bits.
    """

    def __init__(self, features: torch.Tensor, group: torch.Tensor, count: int) -> None:
        d = features.shape[1]
        keys, weights = self._simplices(features, group)
        points, vertex = torch.unique(keys, return_inverse=True)  # sorted
        self.size, self.alpha = len(points), 1 / (1 + 2.0**-d)
        self.neighbours = []  # for each axis (2, M): the points before and after, M where missing
        for step in self.steps:
            pair = []
            for wanted in (points - step, points + step):
                at = torch.searchsorted(points, wanted).clamp_(max=self.size - 1)
                pair.append(torch.where(points[at] == wanted, at, self.size))
            self.neighbours.append(torch.stack(pair))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.slicing = self._matrix(vertex[:count], weights[:count])
            self.splatting = self._transposed(vertex[:count], weights[:count])
        ones = torch.ones(count, 1, dtype=features.dtype, device=features.device)
        self.norm = 1 / torch.sqrt(self._filter(ones) + 1e-20)  # (count, 1)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Filter (count, C) with the symmetric normalisation."""
        return self.norm * self._filter(self.norm * values)

    def _filter(self, values: torch.Tensor) -> torch.Tensor:
        nothing = values.new_zeros(1, values.shape[1])
        lattice = torch.cat([self.splatting @ values, nothing])  # (M + 1, C)
        for before, after in self.neighbours:
            lattice[:-1] += 0.5 * (lattice[before] + lattice[after])
        return self.alpha * (self.slicing @ lattice[:-1])

    def _simplices(
        self, features: torch.Tensor, group: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed keys (N, d + 1) int64 of every feature's simplex, and barycentric weights."""
        d = features.shape[1]
        deviation = np.float32(math.sqrt(2 / 3) * (d + 1))
        scale = [
            float(np.float32(1 / math.sqrt((i + 1) * (i + 2)) * float(deviation))) for i in range(d)
        ]
        # pydensecrf's order of float operations: the simplex of a pixel may hang on the last bit.
        later = torch.zeros_like(features[:, 0])
        elevated = [later] * (d + 1)
        for j in range(d, 0, -1):
            scaled = features[:, j - 1] * scale[j - 1]
            elevated[j] = later - float(j) * scaled
            later = later + scaled
        elevated[0] = later
        elevated = torch.stack(elevated, dim=1)  # (N, d + 1)
        inverse = float(np.float32(1) / np.float32(d + 1))
        rounded = torch.round(elevated * inverse)  # half to even
        nearest = rounded * (d + 1)
        rest = elevated - nearest
        less = rest[:, :, None] < rest[:, None, :]
        earlier = torch.ones(d + 1, d + 1, dtype=torch.bool, device=features.device).triu(1)
        # Of i < j, i ranks after j if its rest is less, else j after i: ties too are ranked.
        rank = (less & earlier).sum(2) + (~less & earlier).sum(1)
        rank = rank + rounded.sum(1, keepdim=True).long()
        wrap = (d + 1) * ((rank < 0).long() - (rank > d).long())
        rank, nearest = rank + wrap, nearest + wrap
        inside = (elevated - nearest) * inverse
        ordered = torch.empty_like(inside).scatter_(1, rank, inside)  # by rank
        axis = torch.empty_like(rank).scatter_(
            1, rank, torch.arange(d + 1, device=rank.device).expand_as(rank)
        )
        first = ordered[:, d] + (1 - ordered[:, 0])
        weights = torch.cat([first[:, None], (ordered[:, :-1] - ordered[:, 1:]).flip(1)], dim=1)

        low = nearest[:, :d].amin(0) - 3 * (d + 1)
        high = nearest[:, :d].amax(0) + 3 * (d + 1)
        ends = torch.stack([low, high]).long().tolist()
        bits, fields = 0, []
        for smallest, largest in zip(*ends, strict=True):
            if smallest < -LIMIT or largest > LIMIT:
                raise OverflowError
            fields.append(bits)
            bits += (largest - smallest).bit_length()
        groups = int(group.max()) + 1
        if bits + groups.bit_length() > 63:
            raise OverflowError
        ones = sum(1 << field for field in fields)
        self.steps = [ones - ((d + 1) << field) for field in fields] + [ones]
        shift = torch.tensor(fields, device=features.device)
        key = ((nearest[:, :d].long() - low.long()) << shift).sum(1) + (group << bits)
        moves = torch.tensor(self.steps, device=features.device)[axis.flip(1)[:, :d]]
        return torch.cat([key[:, None], key[:, None] + moves.cumsum(1)], dim=1), weights

    def _matrix(self, vertex: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(count, M) CSR."""
        count, axes = vertex.shape
        rows = torch.arange(0, count * axes + 1, axes, device=vertex.device)
        order = vertex.argsort(dim=1)
        return torch.sparse_csr_tensor(
            rows,
            vertex.gather(1, order).flatten(),
            weights.gather(1, order).flatten(),
            (count, self.size),
            check_invariants=False,
        )

    def _transposed(self, vertex: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """(M, count) CSR: every point sums its pixels in their order, so no atomic additions."""
        count, axes = vertex.shape
        flat = vertex.flatten()
        order = flat.argsort(stable=True)
        rows = torch.searchsorted(flat[order], torch.arange(self.size + 1, device=vertex.device))
        return torch.sparse_csr_tensor(
            rows,
            order // axes,
            weights.flatten()[order],
            (self.size, count),
            check_invariants=False,
        )


def torch_crf(
    unaries: list[np.ndarray],
    images: list[np.ndarray],
    *,
    iterations: int,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
    device: str | torch.device = "cpu",
    fallbacks: list[str] | None = None,
) -> list[np.ndarray]:
    """`clip_wsss.fast_crf.fast` of a batch of images of any sizes and numbers of labels.

    Args:
        unaries: for each image (C, H * W) float32.
        images: for each (H, W, 3) uint8.
        device: where it runs. The loop over the iterations waits for nothing there.
        fallbacks: gets the reason for every image that pydensecrf did instead.
        Others: as for `clip_wsss.fast_crf.fast`.

    Returns:
        For each image (C, H, W) float32.

    Raises:
        InputError: shapes or dtypes other than these.
    """
    if len(unaries) != len(images):
        raise InputError(f"unaries: must be one an image; got {len(unaries)} for {len(images)}")
    for unary, rgb in zip(unaries, images, strict=True):
        fast_crf.check(unary, rgb)
    kernels = {"gaussian_compat": gaussian_compat, "bilateral_compat": bilateral_compat}
    spreads = {
        "gaussian_sxy": gaussian_sxy,
        "bilateral_sxy": bilateral_sxy,
        "bilateral_srgb": bilateral_srgb,
    }
    finite = all(np.isfinite(unary).all() for unary in unaries)
    try:
        if not finite:
            raise OverflowError
        return _infer(unaries, images, iterations, **kernels, **spreads, device=device)
    except OverflowError:
        if len(images) > 1:  # one image at a time: most of them can do without pydensecrf
            return [
                torch_crf(
                    [unary],
                    [rgb],
                    iterations=iterations,
                    **kernels,
                    **spreads,
                    device=device,
                    fallbacks=fallbacks,
                )[0]
                for unary, rgb in zip(unaries, images, strict=True)
            ]
    if fallbacks is not None:
        fallbacks.append(fast_crf.KEYS_DO_NOT_FIT if finite else fast_crf.NOT_FINITE)
    return [fast_crf.exact(unaries[0], images[0], iterations=iterations, **kernels, **spreads)]


@torch.inference_mode()
def _infer(
    unaries: list[np.ndarray],
    images: list[np.ndarray],
    iterations: int,
    *,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
    device: str | torch.device,
) -> list[np.ndarray]:
    pixels = [rgb.shape[0] * rgb.shape[1] for rgb in images]
    labels = max(len(unary) for unary in unaries)
    logits = np.full((sum(pixels), labels), -np.inf, np.float32)  # no label beyond an image's own
    group, last_group, features, start = [], [], [], 0
    for number, (unary, rgb) in enumerate(zip(unaries, images, strict=True)):
        count = pixels[number]
        logits[start : start + count, : len(unary)] = -unary.T
        start += count
        y, x = np.divmod(np.arange(count, dtype=np.int32), np.int32(rgb.shape[1]))
        features.append(np.concatenate([np.stack([x, y], axis=1), rgb.reshape(-1, 3)], axis=1))
        group.append(np.full(count, number))
        # pydensecrf fills up to four pixels with zero features, and their points carry blur.
        last_group.append(np.full(-count % 4, number))
    group = np.concatenate(group + last_group)
    features.append(np.zeros((len(group) - start, 5), np.int32))
    features = np.concatenate(features).astype(np.float32)
    # Divided here: on CUDA torch multiplies with the reciprocal, which differs in the last bit.
    place = features[:, :2] / np.float32(gaussian_sxy)
    both = [
        features[:, :2] / np.float32(bilateral_sxy),
        features[:, 2:] / np.float32(bilateral_srgb),
    ]
    group = torch.from_numpy(group).to(device)
    gaussian = Lattice(torch.from_numpy(place).to(device), group, start)
    bilateral = Lattice(torch.from_numpy(np.concatenate(both, axis=1)).to(device), group, start)
    logits = torch.from_numpy(logits).to(device)
    q = logits.softmax(dim=1)
    for _ in range(iterations):
        q = (logits + gaussian_compat * gaussian(q) + bilateral_compat * bilateral(q)).softmax(1)
    return [
        np.ascontiguousarray(part[:, : len(unary)].T).reshape(len(unary), *rgb.shape[:2])
        for part, unary, rgb in zip(q.cpu().split(pixels), unaries, images, strict=True)
        for part in [part.numpy()]
    ]
