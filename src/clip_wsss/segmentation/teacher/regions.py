"""PLM's pseudo regions (steps 1 and 2 of the paper): tokens of a frozen CLIP in clusters.

Nothing is drawn: k-means starts from the means of sliding windows, in float64, and the first of
equals wins. So the same tokens give the same regions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.labels.teacher_settings import RegionSettings


def pseudo_regions(tokens: Tensor, inside: Tensor, settings: RegionSettings) -> Tensor:
    """Regions of tokens that look alike, of each image by itself.

    Windows of each size slide over the grid, and each window's mean starts a cluster of k-means;
    the clusters of all sizes are merged by the cosines of their centres (`merged`). A token that
    several of these then hold belongs to the one whose mean is nearest in cosine.

    Args:
        tokens: D, (B, E, gh, gw), of any length but 0.
        inside: (B, gh, gw) bool, the tokens that take part.
        settings: windows, stride, rounds and fusion count.

    Returns:
        (B, gh, gw) int64: -1 for a token that does not take part, else its region, numbered from 0
        without a gap, regions of the first windows first.
    """
    points = F.normalize(tokens.flatten(2).transpose(1, 2).double(), dim=2)  # (B, N, E)
    taking, grid = inside.flatten(1), (tokens.shape[2], tokens.shape[3])
    means, members = [], []
    for share in settings.windows:
        windows = sliding_windows(grid, share, settings.stride).to(points)  # (M, N)
        centres, nearest = clusters(points, taking, windows, settings.rounds)
        means.append(centres)
        members.append(F.one_hot(nearest + 1, len(windows) + 1)[..., 1:])
    member = torch.cat(members, dim=2).bool()  # (B, N, K), the clusters of all sizes
    leader = merged(torch.cat(means, dim=1), member.any(dim=1), settings.fusion)
    member = member.double() @ F.one_hot(leader + 1, leader.shape[1] + 1)[..., 1:].double() > 0
    sums = member.double().transpose(1, 2) @ points  # (B, K, E), of each merged region
    cosines = points @ F.normalize(sums, dim=2).transpose(1, 2)
    region = cosines.masked_fill(~member, -torch.inf).argmax(dim=2)  # (B, N)
    used = (F.one_hot(region, leader.shape[1]).bool() & taking[..., None]).any(dim=1)  # (B, K)
    number = (used.cumsum(dim=1) - 1).gather(1, region)
    return number.where(taking, -1).unflatten(1, grid)


def sliding_windows(grid: tuple[int, int], share: float, stride: float) -> Tensor:
    """Windows of one size at all places on a grid.

    Args:
        grid: (gh, gw).
        share: of the window, of each side of the grid; at least one token.
        stride: between two windows, a share of the window; at least one token. The last window of
            a row or column ends where the grid does.

    Returns:
        (M, N) bool: whether token n lies in window m, in reading order.
    """
    sides = []
    for length in grid:
        size = max(1, round(share * length))
        step = max(1, round(stride * size))
        starts = torch.tensor([*range(0, length - size, step), length - size])[:, None]
        place = torch.arange(length)
        sides.append((place >= starts) & (place < starts + size))  # (m, length)
    rows, columns = sides
    both = rows[:, None, :, None] & columns[None, :, None, :]  # (m, m', gh, gw)
    return both.flatten(2).flatten(0, 1)


def clusters(points: Tensor, taking: Tensor, windows: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """k-means of each image, from the means of windows.

    Args:
        points: (B, N, E) float64.
        taking: (B, N) bool, the points that take part.
        windows: (M, N) float64, 0 or 1; a window that holds no such point starts no cluster.
        rounds: at most; as many assignments, each but the last followed by the clusters' means. A
            cluster that loses its points keeps its centre and gets some again if it is nearest.

    Returns:
        Centres (B, M, E), which the points were compared with last, and each point's cluster
        (B, N) int64, the nearest one; -1 for a point that does not take part.
    """
    member = windows * taking[:, None]  # (B, M, N)
    sizes = member.sum(dim=2, keepdim=True)
    filled = sizes[..., 0] > 0
    centres = member @ points / sizes.clamp(min=1)
    nearest = taking.long() - 1
    for rest in range(rounds - 1, -1, -1):
        # The squared distance, less |point|^2, which is the same for all centres.
        far = centres.square().sum(dim=2)[:, None] - 2 * points @ centres.transpose(1, 2)
        found = far.masked_fill(~filled[:, None], torch.inf).argmin(dim=2).where(taking, -1)
        settled, nearest = torch.equal(found, nearest), found
        if settled or not rest:
            break
        member = F.one_hot(nearest + 1, len(windows) + 1)[..., 1:].to(points).transpose(1, 2)
        sizes = member.sum(dim=2, keepdim=True)
        centres = torch.where(sizes > 0, member @ points / sizes.clamp(min=1), centres)
    return centres, nearest


def merged(centres: Tensor, there: Tensor, fusion: float) -> Tensor:
    """Clusters merged by the cosines of their centres, each used once.

    From the first cluster on, one that is still free takes all free ones whose cosine with it is
    above `fusion`.

    Args:
        centres: (B, K, E).
        there: (B, K) bool, clusters that hold a point.
        fusion: lambda; at 1 nothing merges.

    Returns:
        (B, K) int64: the cluster that took each one, itself if none did; -1 where not `there`.
    """
    units = F.normalize(centres, dim=2)
    alike = (units @ units.transpose(1, 2)).clamp(max=1) > fusion  # (B, K, K)
    leader = torch.full(there.shape, -1, device=there.device)
    free = there.clone()
    for k in range(there.shape[1]):
        taken = free & alike[:, k]
        taken[:, k] = free[:, k]
        taken &= free[:, k : k + 1]
        leader[taken] = k
        free &= ~taken
    return leader
