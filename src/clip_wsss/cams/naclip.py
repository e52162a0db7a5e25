"""NACLIP (Hajimiri et al., WACV 2025): key-key attention that prefers the neighbourhood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from clip_wsss.cams.patch_text import RebuiltSettings, patch_text_maps

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class NaclipSettings(RebuiltSettings):
    """NACLIP; the defaults are the paper's."""

    sigma: float = Field(5.0, gt=0, description="of the Gaussian, in patches")


def naclip(context: MapContext, settings: NaclipSettings) -> Tensor:
    """softmax(k k^T / sqrt(d) + Gaussian), no residual and no MLP: (K, gh, gw) float32 in [0, 1].

    The Gaussian is 1 at a patch itself; prefix tokens have none.
    """
    from torch.nn.functional import pad, scaled_dot_product_attention

    prefix = context.tower.prefix
    near = pad(neighbourhood(context.grid, settings.sigma), (prefix, 0, prefix, 0))

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(k, k, v, attn_mask=near.to(k))

    return patch_text_maps(context, mix, settings)


def neighbourhood(grid: tuple[int, int], sigma: float) -> Tensor:
    """exp(-r^2 / (2 sigma^2)) of the distance r between two patches: (N, N) float32."""
    import torch

    rows, columns = (
        torch.exp(-(torch.arange(n)[:, None] - torch.arange(n)).square() / (2 * sigma**2))
        for n in grid
    )
    return torch.kron(rows, columns)
