"""The closed form of the way back through the last block equals autograd's."""

import pytest
import torch
from clip_cases import make_openai_state_dict, random_clip, small_config

from clip_wsss.models import last_block
from clip_wsss.models.clip import _matrices
from clip_wsss.models.last_block import Derived, Recorded

SIZE = (20, 24)


def passes(tmp_path, config, precision="float32", quick=True):
    """Both passes over the last block of two images, and the model."""
    state = make_openai_state_dict(config, 3)
    clip = random_clip(tmp_path, config, state, precision=precision)
    if not quick:
        clip.visual.transformer.resblocks[-1].mlp.gelu = torch.nn.GELU()
    generator = torch.Generator().manual_seed(0)
    x, _ = clip.trunk(torch.randn(2, 3, *SIZE, generator=generator), 0)
    return clip, clip.through_last_block(x, True), last_block.record(clip, x, True)


@pytest.mark.parametrize("after_pool", [False, True])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_equals_autograd(tmp_path, after_pool, quick, heads):
    config = small_config(final_ln_after_pool=after_pool, head_width=32 // heads)
    _, derived, recorded = passes(tmp_path, config, quick=quick)
    assert isinstance(derived, Derived)
    torch.testing.assert_close(derived.inputs, recorded.inputs.detach())
    torch.testing.assert_close(derived.pooled, recorded.pooled.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(derived.attention, recorded.attention)
    for size in (1.0, 1e-12, 1e12):
        slope = size * torch.randn(derived.pooled.shape, generator=torch.Generator().manual_seed(1))
        wanted = recorded.weights(slope)
        found = derived.weights(slope)
        assert (found - wanted).abs().max() <= 3e-6 * wanted.abs().max()


def test_small_slopes_survive_half_precision(tmp_path):
    """A power of 2 more or less changes no digit."""
    _, derived, recorded = passes(tmp_path, small_config(), "bfloat16")
    slope = torch.randn(derived.pooled.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(derived.weights(slope * 2**-60), derived.weights(slope) * 2**-60)
    both = torch.stack([derived.weights(slope).flatten(), recorded.weights(slope).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_the_scale_of_slopes_is_a_power_of_two():
    # FAULTS 16
    sizes = torch.tensor([0.0, 1.0, 6.0, 0.75, 3e-9, 1e30, float("inf"), float("nan")])
    powers = [1.0, 2.0, 8.0, 1.0, 2.0**-28, 2.0**100, 1.0, 1.0]
    assert last_block.power_of_two(sizes).tolist() == powers


def test_small_slopes_survive_float16(tmp_path):
    """float16 has nothing below 2 ** -24, so without the scale all would be 0."""
    # FAULTS 16
    config = small_config()
    clip = random_clip(tmp_path, config, make_openai_state_dict(config, 3))
    for matrix in _matrices(clip.visual):
        matrix.data = matrix.data.half()
    clip.dtype = torch.float16
    x, _ = clip.trunk(torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)), 0)
    assert x.dtype == torch.float16
    for passed in (clip.through_last_block(x, False), last_block.record(clip, x, False)):
        slope = torch.randn(passed.pooled.shape, generator=torch.Generator().manual_seed(1))
        weights = passed.weights(slope)
        assert weights.abs().max() > 0
        for factor in (2.0**-60, 2.0**60):
            assert torch.equal(passed.weights(slope * factor), weights * factor)
    # What the scale divides by is a power of 2, so that no digit changes.
    derived = clip.through_last_block(x, False)
    scaled, scale = derived._scaled(slope)
    assert (torch.frexp(scale).mantissa == 0.5).all()
    largest = scaled.abs().amax(dim=-1) * derived.deviation.amax(dim=1)[:, 0]
    assert ((largest >= 0.5) & (largest <= 1)).all()


def test_slopes_do_not_know_of_each_other(tmp_path):
    _, derived, _ = passes(tmp_path, small_config())
    slopes = torch.randn(3, *derived.pooled.shape, generator=torch.Generator().manual_seed(1))
    first = [derived.weights(slope) for slope in slopes]
    again = [derived.weights(slope) for slope in slopes.flip(0)]
    for a, b in zip(first, reversed(again), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "variant", [{"ls_init_value": 0.3}, {"qk_norm": True}, {"scale_fc": True}], ids=str
)
def test_other_blocks_are_left_to_autograd(tmp_path, variant):
    _, found, recorded = passes(tmp_path, small_config(**variant))
    assert isinstance(found, Recorded)
    slope = torch.ones_like(recorded.pooled)
    torch.testing.assert_close(found.weights(slope), recorded.weights(slope))


def test_the_map_changes_nothing_else(tmp_path):
    clip, with_map, _ = passes(tmp_path, small_config())
    generator = torch.Generator().manual_seed(0)
    x, _ = clip.trunk(torch.randn(2, 3, *SIZE, generator=generator), 0)
    without = clip.through_last_block(x, False)
    assert without.attention is None
    slope = torch.ones_like(without.pooled)
    assert torch.equal(with_map.weights(slope), without.weights(slope))
