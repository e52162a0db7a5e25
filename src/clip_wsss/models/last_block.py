"""The way back through a vision tower's last block, which GradCAM's channel weights need.

GradCAM wants the gradient at ln_1's output only as its mean over the patches. The sum goes through
the projections of queries, keys and values as one vector, and of the attention itself one product
a head is left. Autograd finds the same for whichever block is built in another way.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clip_wsss.models.layers import FrozenBlock, FrozenLinear, activate, attend_head_by_head
from clip_wsss.models.tower import Clip, Grid


@dataclass(frozen=True)
class Recorded:
    """The last block's pass as autograd recorded it; see `record`."""

    inputs: Tensor
    tokens: Tensor
    leaf: Tensor
    pooled: Tensor
    attention: Tensor | None
    prefix: int

    def weights(self, slope: Tensor) -> Tensor:
        """Mean over the patches of the gradient at ln_1's output.

        Args:
            slope: (B, D) float32, the gradient at `pooled`.

        Returns:
            (B, D) float32.
        """
        (slope,) = torch.autograd.grad(self.pooled, self.leaf, slope, retain_graph=True)
        # Half precision would lose small slopes on the way back. A power of 2 is exact.
        scale = power_of_two(slope.abs().amax(dim=(1, 2), keepdim=True))
        (gradient,) = torch.autograd.grad(
            self.tokens, self.inputs, (slope / scale).to(self.tokens.dtype), retain_graph=True
        )
        return gradient[:, self.prefix :].float().mean(dim=1) * scale[:, 0]


@dataclass(frozen=True)
class Derived:
    """The last block's pass with what the way back reads again; see `LastBlock`.

    B images, N patches, L = 1 + N tokens, D channels, H heads of d channels.

    Attributes:
        inputs: (B, L, D), ln_1's output.
        pooled: (B, D) float32, see `FrozenClip.pooled`.
        attention: (B, N, N) float32, mean over the heads, without CLS; or None.
        block: what ran.
        gain: (D,) float32 of ln_post.
        normed: (B, N, D) float32, ln_post's output before its gain and bias.
        deviation: (B, N, 1) float32, 1 / what ln_post divides by.
        slopes: (B, N, 4 D), the activation's derivative.
        turned: (B, N, 4 D), the same times what c_proj takes back of `normed`.
        entering: (B, N, D) float32, what enters ln_2, recorded.
        leaving: (B, N, D) float32, ln_2's output, recorded.
        maps: (B, H, N, L), attention of the patches.
        cls: (B, H, 1, N) float32, how much each patch attends to CLS.
        query: (B, H, N, d) float32 of the patches, divided by sqrt(d).
        key: (B, H, L, d) float32 less their mean.
        value: (B, H, L, d) float32 less their mean.
        mixed_key: (B, H, N, d) float32, `maps` times `key`.
        mixed_value: (B, H, N, d) float32, `maps` times `value`.
    """

    inputs: Tensor
    pooled: Tensor
    attention: Tensor | None
    block: "LastBlock"
    gain: Any
    normed: Tensor | None
    deviation: Any
    slopes: Tensor
    turned: Any
    entering: Tensor
    leaving: Tensor
    maps: Tensor
    cls: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    mixed_key: Tensor
    mixed_value: Tensor

    def weights(self, slope: Tensor) -> Tensor:
        """As `Recorded.weights`."""
        slope, scale = self._scaled(slope)
        at_ln_2 = self._through_mlp(slope)
        H, N, d = self.query.shape[1:]
        dtype = self.maps.dtype
        dy = self.block.from_joined(at_ln_2.to(dtype))
        dy = dy.unflatten(-1, (H, d)).transpose(1, 2).contiguous()  # (B, H, N, d), at the heads
        # So that what is turned is the small one of the two.
        back = (dy.transpose(-1, -2) @ self.maps).transpose(-1, -2).float()  # (B, H, L, d)
        dy = dy.float()
        # The softmax's slope P_ij (dy_i . v_j - dy_i . y_i) is 0 in the sum over all j, so keys and
        # values may be shifted, and the sum over the patches j is that of CLS with another sign.
        score = (dy * self.mixed_value).sum(dim=-1)[..., None, :]  # (B, H, 1, N)
        query = (back * self.value).sum(dim=-1)[..., None, :] @ self.key - score @ self.mixed_key
        at_cls = self.value[..., :1, :] @ dy.transpose(-1, -2) - score
        key = (self.cls * at_cls) @ self.query
        value = (1 - self.cls) @ dy
        packed = torch.cat([query.flatten(1) * d**-0.5, -key.flatten(1), value.flatten(1)], dim=-1)
        return ((packed / N).to(dtype) @ self.block.projected.weight).float() * scale

    def _scaled(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Slope (B, D) at every patch's ln_post, and the power of 2 (B, 1) that it was divided by.

        Half precision would lose small slopes on the way back. A power of 2 is exact.
        """
        slope = slope / self.slopes.shape[1]  # the mean over the patches
        size = slope.abs().amax(dim=-1, keepdim=True)
        if self.normed is not None:
            slope = slope * self.gain
            slope = slope - slope.mean(dim=-1, keepdim=True)
            size = slope.abs().amax(dim=-1, keepdim=True) * self.deviation.amax(dim=1)
        scale = power_of_two(size)
        return slope / scale, scale

    def _through_mlp(self, slope: Tensor) -> Tensor:
        """Gradient (B, N, D) float32 at ln_2's input, of both branches.

        The gradient at the tokens is deviation * (slope - share * normed), so c_proj takes back
        one vector a slope; what it takes back of `normed` serves every slope.
        """
        taken = (slope.to(self.slopes.dtype) @ self.block.second.weight)[:, None]  # (B, 1, 4 D)
        at_hidden, at_tokens = self.slopes * taken, slope[:, None]
        if self.normed is not None:
            share = self.normed @ slope[..., None] / slope.shape[-1]  # (B, N, 1)
            at_hidden.addcmul_(share.to(at_hidden.dtype), self.turned, value=-1)
            at_tokens = (at_tokens - share * self.normed) * self.deviation
        at_leaving = self.block.from_first(at_hidden).float()
        if self.normed is not None:
            at_leaving *= self.deviation
        (branch,) = torch.autograd.grad(self.leaving, self.entering, at_leaving, retain_graph=True)
        return branch + at_tokens


def record(clip: Clip, x: Tensor, need_map: bool, grid: Grid | None = None) -> Recorded:
    """Run the last block of any CLIP under autograd; see `clip_wsss.models.tower.Clip`."""
    with torch.enable_grad():
        a = clip.normed(x).detach().requires_grad_()
        tokens = clip.last_block(x, a, grid)
        attention = clip.attention(-1, x, "qk", grid) if need_map else None
        leaf = tokens.detach().float().requires_grad_()
        return Recorded(a, tokens, leaf, clip.pooled(leaf), attention, clip.prefix)


class LastBlock(FrozenBlock):
    """The last block of an ordinary CLIP, so that one can go back through it (docs/parity.md, 7).

    Args:
        block: open_clip's, see `is_ordinary`.
        norm: ln_post with weights, for patches that are normalised before they are pooled, or None.
    """

    def __init__(self, block: Any, norm: Any):
        super().__init__(block)
        self.norm = norm
        self.from_joined = FrozenLinear(self.joined.weight.T)
        self.from_first, self.from_second = (
            FrozenLinear(one.weight.T) for one in (self.first, self.second)
        )

    @torch.no_grad()
    def __call__(self, x: Tensor, need_map: bool) -> Derived:
        """Run it.

        Args:
            x: (B, 1 + N, D), the residual stream that enters it.
            need_map: whether its attention is wanted; that changes nothing else.
        """
        a = self.ln_1(x)
        q, k, v = self.qkv(a)  # (B, H, L, d) each
        B, H, L, d = q.shape
        maps = q.new_empty(B, H, L, L)
        y, attention = attend_head_by_head(q, k, v, need_map, maps)
        maps, y = maps[:, :, 1:], y[:, :, 1:]
        x = self.with_attention(x[:, 1:], y)
        with torch.enable_grad():
            entering = x.float().requires_grad_()
            leaving = self.ln_2(entering)
        hidden = self.first(leaving.detach().to(x.dtype))
        hidden, slopes = activate(self.activation, hidden)
        patches = self.second.added(x, hidden).float()
        key, value, middle = (
            k.float().contiguous(),
            v.float().contiguous(),
            v.float().mean(-2, True),
        )
        key, value = key - key.mean(dim=-2, keepdim=True), value - middle
        gain = normed = deviation = turned = None
        if self.norm is None:
            pooled = patches.mean(dim=1)
        else:
            variance, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
            deviation = (variance + self.norm.eps).rsqrt()
            normed, gain = (patches - mean) * deviation, self.norm.weight.float()
            turned = self.from_second(normed.to(x.dtype)).mul_(slopes)
            pooled = self.norm(patches).mean(dim=1)
        return Derived(
            inputs=a,
            pooled=pooled,
            attention=None if attention is None else attention[:, 1:, 1:],
            block=self,
            gain=gain,
            normed=normed,
            deviation=deviation,
            slopes=slopes,
            turned=turned,
            entering=entering,
            leaving=leaving,
            maps=maps,
            cls=maps[..., 0].float()[..., None, :],
            query=(q[:, :, 1:].float() * d**-0.5).contiguous(),
            key=key,
            value=value,
            mixed_key=(maps @ key.to(maps.dtype)).float(),
            mixed_value=(y.float() - middle).contiguous(),
        )


def power_of_two(size: Tensor) -> Tensor:
    """The power of 2 next above a positive number; 1 for what is 0 or not finite."""
    size = torch.where(torch.isfinite(size), size, torch.zeros_like(size))
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent)
