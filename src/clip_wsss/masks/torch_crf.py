"""The lattice of `clip_wsss.masks.fast_crf` in torch, for images in batches on a GPU.

Same coordinates, keys and blur; sums run in another order, so probabilities differ in their last
digits and labels are the same. On a CPU it is slower than pydensecrf.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch

from clip_wsss.core.confidence import EDGES
from clip_wsss.core.errors import InputError
from clip_wsss.masks import fast_crf

NOT_A_NUMBER = 255  # the code of no confidence
LIMIT = 32000  # pydensecrf keeps a coordinate in 16 bits


class Lattice:
    """Permutohedral lattice of a set of features (Adams, Baek and Davis, 2010).

    Args:
        features: (N, d) float32, divided by the standard deviations.
        group: (N,) int64, from 0; features of different groups share no point.
        real: (N,) float32, 1 for a feature that is filtered, 0 for one that only makes points.

    Raises:
        OverflowError: the keys do not fit 63 bits.
    """

    def __init__(self, features: torch.Tensor, group: torch.Tensor, real: torch.Tensor) -> None:
        d = features.shape[1]
        keys, weights = self._simplices(features.T.contiguous(), group)  # (d + 1, N) each
        weights = weights * real
        # One sort says which keys are one point, and which pixels a point sums, in their order.
        flat = keys.T.flatten()
        ordered, order = torch.sort(flat, stable=True)
        new = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=new[1:])
        points = ordered[new]
        self.size, self.alpha = len(points), 1 / (1 + 2.0**-d)
        self.vertex = torch.empty_like(order)
        self.vertex[order] = new.cumsum(0) - 1
        self.vertex = self.vertex.unflatten(0, (-1, d + 1)).T.contiguous()  # (d + 1, N)
        self.weights = weights[..., None]  # (d + 1, N, 1)
        starts = torch.cat([new.nonzero()[:, 0], order.new_tensor([len(order)])])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse")
            self.splatting = torch.sparse_csr_tensor(
                starts,
                order // (d + 1),
                weights.T.flatten()[order],
                (self.size, len(features)),
                check_invariants=False,
            )
        steps = torch.tensor(self.steps, device=points.device)
        wanted = points + steps[:, None]  # (d + 1, M), sorted row by row
        after = torch.searchsorted(points, wanted).clamp_(max=self.size - 1)
        after = torch.where(points[after] == wanted, after, self.size)
        # Whoever lies after a point has that point before it; M where there is none.
        before = torch.full((d + 1, self.size + 1), self.size, device=points.device)
        here = torch.arange(self.size, device=points.device).expand_as(after)
        before.scatter_(1, after, here)
        self.neighbours = list(zip(before[:, :-1], after, strict=True))
        self.norm = 1 / torch.sqrt(self._filter(real[:, None]) + 1e-20)  # (N, 1)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Filter (N, C) with the symmetric normalisation."""
        return self.norm * self._filter(self.norm * values)

    def _filter(self, values: torch.Tensor) -> torch.Tensor:
        lattice = values.new_zeros(self.size + 1, values.shape[1])  # the last point is nobody's
        lattice[:-1] = self.splatting @ values
        wide = _wide(lattice)  # the same memory
        for before, after in self.neighbours:
            both = wide[before].view(values.dtype).add_(wide[after].view(values.dtype))
            lattice[:-1].add_(both, alpha=0.5)
        return (wide[self.vertex].view(values.dtype) * self.weights).sum(0).mul_(self.alpha)

    def _simplices(
        self, features: torch.Tensor, group: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed keys (d + 1, N) int64 of every feature's simplex, and barycentric weights."""
        d = len(features)
        deviation = np.float32(math.sqrt(2 / 3) * (d + 1))
        scale = [
            float(np.float32(1 / math.sqrt((i + 1) * (i + 2)) * float(deviation))) for i in range(d)
        ]
        # pydensecrf's order of float operations: the simplex of a pixel may hang on the last bit.
        later = torch.zeros_like(features[0])
        heights = [later] * (d + 1)
        for j in range(d, 0, -1):
            scaled = features[j - 1] * scale[j - 1]
            heights[j] = later - float(j) * scaled
            later = later + scaled
        heights[0] = later
        elevated = torch.stack(heights)  # (d + 1, N)
        inverse = float(np.float32(1) / np.float32(d + 1))
        rounded = torch.round(elevated * inverse)  # half to even
        nearest = rounded * (d + 1)
        rest = elevated - nearest
        rank = rounded.sum(0).long().repeat(d + 1, 1)
        for i in range(d):
            less = rest[i] < rest[i + 1 :]  # ties too are ranked: of i < j, i comes first then
            rank[i] += less.sum(0)
            rank[i + 1 :] += ~less
        wrap = (d + 1) * ((rank < 0).long() - (rank > d).long())
        rank, nearest = rank + wrap, nearest + wrap
        inside = (elevated - nearest) * inverse
        ordered = torch.empty_like(inside).scatter_(0, rank, inside)  # by rank
        axes = torch.arange(d + 1, device=rank.device)[:, None].expand_as(rank)
        axis = torch.empty_like(rank).scatter_(0, rank, axes)
        first = ordered[d] + (1 - ordered[0])
        weights = torch.cat([first[None], (ordered[:-1] - ordered[1:]).flip(0)])

        low = nearest[:d].amin(1) - 3 * (d + 1)
        high = nearest[:d].amax(1) + 3 * (d + 1)
        *ends, groups = torch.cat([low, high, group.max()[None].float()]).long().tolist()
        bits, fields = 0, []
        for smallest, largest in zip(ends[:d], ends[d:], strict=True):
            if smallest < -LIMIT or largest > LIMIT:
                raise OverflowError
            fields.append(bits)
            bits += (largest - smallest).bit_length()
        if bits + (groups + 1).bit_length() > 63:
            raise OverflowError
        ones = sum(1 << field for field in fields)
        self.steps = [ones - ((d + 1) << field) for field in fields] + [ones]
        shift = torch.tensor(fields, device=features.device)[:, None]
        key = ((nearest[:d] - low[:, None]).long() << shift).sum(0) + (group << bits)
        moves = torch.tensor(self.steps, device=features.device)[axis.flip(0)[:d]]
        return torch.cat([key[None], key + moves.cumsum(0)]), weights


def _wide(rows: torch.Tensor) -> torch.Tensor:
    """Rows of floats as larger numbers, only to be moved: a GPU gathers 16 bytes as fast as 4."""
    if rows.shape[1] % 2:
        return rows
    return rows.view(torch.complex64 if rows.shape[1] % 4 else torch.complex128)


def torch_crf(
    unaries: list[np.ndarray],
    images: list[np.ndarray],
    field: fast_crf.MeanField,
    device: str | torch.device = "cpu",
    fallbacks: list[str] | None = None,
) -> list[np.ndarray]:
    """`clip_wsss.masks.fast_crf.fast` of a batch of images of any sizes and numbers of labels.

    Args:
        unaries: for each image (C, H * W) float32.
        images: for each (H, W, 3) uint8.
        field: the CRF.
        device: where it runs. The loop over the iterations waits for nothing there.
        fallbacks: gets the reason for every image that pydensecrf did instead.

    Returns:
        For each image (C, H, W) float32.

    Raises:
        InputError: shapes or dtypes other than these.
    """
    if len(unaries) != len(images):
        raise InputError(f"unaries: must be one an image; got {len(unaries)} for {len(images)}")
    for unary, rgb in zip(unaries, images, strict=True):
        fast_crf.check_inputs(unary, rgb)
    refined = _refined(unaries, images, field, device, None, fallbacks)
    return [own.cpu().numpy() for own in refined]


def decided_crf(
    unaries: list[np.ndarray],
    images: list[np.ndarray],
    field: fast_crf.MeanField,
    device: str | torch.device = "cpu",
    energies: np.ndarray | None = None,
    fallbacks: list[str] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label and confidence after `torch_crf`, decided on the device: 2 bytes a pixel come back.

    Args:
        unaries: for each image (C, H * W) float32, C <= 256; or with `energies` scores, float16.
        images: for each (H, W, 3) uint8.
        field: the CRF.
        device: where it runs.
        energies: (65536,) float32 of all float16, in the order of their bits.
        fallbacks: as of `torch_crf`.

    Returns:
        For each image (H, W) uint8, the label, 0..C - 1, the first of several; and the code of its
        probability (`clip_wsss.core.confidence.encode`), (H, W) uint8, `NOT_A_NUMBER` for NaN.
    """
    edges, found = torch.from_numpy(np.array(EDGES)).to(device), []
    for refined in _refined(unaries, images, field, device, energies, fallbacks):
        confidence, label = refined.max(dim=0)
        codes = torch.bucketize(confidence, edges, right=True) - 1
        codes = torch.where(confidence >= 0, codes, NOT_A_NUMBER)
        found.append(torch.stack([label, codes]).byte())
    return [(label, codes) for label, codes in (own.cpu().numpy() for own in found)]


def _refined(
    unaries: list[np.ndarray],
    images: list[np.ndarray],
    field: fast_crf.MeanField,
    device: str | torch.device,
    energies: np.ndarray | None,
    fallbacks: list[str] | None,
) -> list[torch.Tensor]:
    """Probabilities (C, H, W) of each image on the device; see `decided_crf`."""
    try:
        return _infer(unaries, images, field, device, energies)
    except _NotFiniteError:
        reason = fast_crf.NOT_FINITE
    except OverflowError:
        reason = fast_crf.KEYS_DO_NOT_FIT
    if len(images) > 1:  # one image at a time: most of them can do without pydensecrf
        return [
            _refined([unary], [rgb], field, device, energies, fallbacks)[0]
            for unary, rgb in zip(unaries, images, strict=True)
        ]
    if fallbacks is not None:
        fallbacks.append(reason)
    unary = unaries[0] if energies is None else energies[unaries[0].view(np.uint16)]
    return [torch.from_numpy(fast_crf.exact(unary, images[0], field)).to(device)]


class _NotFiniteError(Exception):
    """An energy is NaN or an infinity."""


@torch.inference_mode()
def _infer(
    unaries: list[np.ndarray],
    images: list[np.ndarray],
    field: fast_crf.MeanField,
    device: str | torch.device,
    energies: np.ndarray | None,
) -> list[torch.Tensor]:
    table = None if energies is None else torch.from_numpy(energies).to(device)
    pixels = [rgb.shape[0] * rgb.shape[1] for rgb in images]
    labels = max(len(unary) for unary in unaries)
    if torch.device(device).type == "cuda" and labels > 2:
        labels += -labels % 4  # 16 bytes, see `_wide`; what is added is 0 throughout
    # pydensecrf fills up to four pixels with zero features, and their points carry blur.
    rows = [count + -count % 4 for count in pixels]
    group = torch.repeat_interleave(
        torch.arange(len(rows), device=device), torch.tensor(rows, device=device)
    )
    # No label beyond an image's own; nothing of this is done on the host.
    logits = torch.full((sum(rows), labels), -torch.inf, device=device)
    features = torch.zeros(sum(rows), 5, device=device)
    real = torch.zeros(sum(rows), device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for start, unary, rgb in zip(np.cumsum([0, *rows]).tolist(), unaries, images, strict=False):
        height, width = rgb.shape[:2]
        part = slice(start, start + height * width)
        if table is None:
            own = torch.from_numpy(unary).to(device)
        else:
            own = table[torch.from_numpy(unary.view(np.int16)).to(device).int() & 0xFFFF]
        logits[part, : len(unary)] = -own.T
        finite &= logits[part, : len(unary)].isfinite().all()
        place = torch.cartesian_prod(
            torch.arange(height, device=device), torch.arange(width, device=device)
        )
        features[part, :2] = place.flip(1).float()
        features[part, 2:] = torch.tensor(rgb).to(device).reshape(-1, 3).float()
        real[part] = 1
    if not finite:
        raise _NotFiniteError
    logits[real == 0] = 0
    # By a tensor: with a number CUDA multiplies by its reciprocal, which differs in the last bit.
    spread = [field.bilateral_sxy] * 2 + [field.bilateral_srgb] * 3
    gaussian = Lattice(features[:, :2] / features.new_tensor([field.gaussian_sxy] * 2), group, real)
    bilateral = Lattice(features / features.new_tensor(spread), group, real)
    q = logits.softmax(dim=1)
    for _ in range(field.iterations):
        q = (
            logits + field.gaussian_compat * gaussian(q) + field.bilateral_compat * bilateral(q)
        ).softmax(1)
    starts = np.cumsum([0, *rows]).tolist()
    return [
        q[start : start + count, : len(unary)].T.reshape(len(unary), *rgb.shape[:2])
        for start, count, unary, rgb in zip(starts, pixels, unaries, images, strict=False)
    ]
