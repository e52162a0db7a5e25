"""Products whose matrices oneDNN has laid out equal the plain ones, a folded QuickGELU itself."""

import pytest
import torch
import torch.nn.functional as F
from clip_cases import make_openai_state_dict, random_clip, small_config
from torch import nn

from clip_wsss.models import layers
from clip_wsss.models.layers import FrozenLinear, can_pack, fold_quick_gelu


def streams(tmp_path, precision, monkeypatch, packed=True):
    """What `streams` gives of three images, by packed matrices or by plain ones."""
    config = small_config(layers=4)
    state = make_openai_state_dict(config, 3)
    clip = random_clip(tmp_path, config, state, precision=precision)
    if not packed:
        monkeypatch.setattr(layers, "can_pack", lambda weight: False)
    images = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    found = clip.streams(images, 3)
    assert [one.second.packed is not None for one in clip._ordinary] == [packed] * 3
    return found


@pytest.mark.parametrize(("precision", "most"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_packed_blocks_equal_plain_ones(tmp_path, monkeypatch, precision, most):
    packed, maps = streams(tmp_path, precision, monkeypatch)
    plain, plain_maps = streams(tmp_path, precision, monkeypatch, packed=False)
    for one, other in zip(packed, plain, strict=True):
        assert one.dtype == other.dtype == getattr(torch, precision)
        assert (one - other).abs().max() <= most * other.abs().max()
    # The last map is the last block's own.
    assert (maps[:, :-1] - plain_maps[:, :-1]).abs().max() <= most * plain_maps[:, :-1].max()


def test_the_same_bits_every_time(tmp_path, monkeypatch):
    first, again = (streams(tmp_path, "float32", monkeypatch)[0] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_a_linear_map(monkeypatch, packed, biased):
    if not packed:
        monkeypatch.setattr(layers, "can_pack", lambda weight: False)
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(5, 7, generator=generator) for _ in range(2))
    bias, residual = torch.randn(7, generator=generator), torch.randn(5, 7, generator=generator)
    product = FrozenLinear(weight.T, bias if biased else None)  # (7, 5), not contiguous
    x = x[:, :5]
    wanted = x @ weight + (bias if biased else 0)
    assert (product.packed is not None) == packed
    torch.testing.assert_close(product(x), wanted)
    torch.testing.assert_close(product(x, silu=True), wanted * wanted.sigmoid())
    torch.testing.assert_close(product.added(residual, x), residual + wanted)
    torch.testing.assert_close(product(x), wanted)  # nothing was changed in place


def test_what_has_no_operator_is_not_packed(monkeypatch):
    weight = torch.randn(4, 4)
    assert can_pack(weight)
    assert can_pack(weight.bfloat16()) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not can_pack(weight.half())
    assert not can_pack(weight.to("meta"))
    monkeypatch.setattr("clip_wsss.models.layers._OPS", object())
    assert not can_pack(weight)


def mlp(activation):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), activation, nn.Linear(24, 6)).requires_grad_(False)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return net


def test_a_folded_quick_gelu_is_the_same():
    from open_clip.transformer import QuickGELU

    net = mlp(QuickGELU())
    first, second = net[0].weight.clone(), net[2].weight.clone()
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    hidden = F.linear(x, net[0].weight, net[0].bias)
    wanted = F.linear(hidden * torch.sigmoid(1.702 * hidden), net[2].weight, net[2].bias)
    fold_quick_gelu(net)
    assert isinstance(net[1], nn.SiLU)
    torch.testing.assert_close(net(x), wanted)
    fold_quick_gelu(net)  # once only
    torch.testing.assert_close(net[0].weight, first * 1.702)
    torch.testing.assert_close(net[2].weight, second / 1.702)


def test_another_activation_stays():
    net = mlp(nn.GELU())
    weight = net[0].weight.clone()
    fold_quick_gelu(net)
    assert isinstance(net[1], nn.GELU)
    assert torch.equal(net[0].weight, weight)


def test_a_folded_matrix_is_rounded_once(tmp_path):
    """Not 1.702 times a rounded one, which would be rounded again."""
    config = small_config()
    state = make_openai_state_dict(config, 3)
    whole, half = (
        random_clip(tmp_path, config, state, precision=precision).visual.transformer.resblocks[0]
        for precision in ("float32", "bfloat16")
    )
    for at in (0, 2):
        assert torch.equal(half.mlp[at].weight, whole.mlp[at].weight.bfloat16())
    assert isinstance(half.mlp[1], nn.SiLU)


def test_bfloat16_attends_head_by_head(tmp_path, monkeypatch):
    """However many maps are asked for, so that the stream does not depend on them."""
    config = small_config(layers=4)
    clip = random_clip(tmp_path, config, make_openai_state_dict(config, 3), precision="bfloat16")
    images = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    few, many = clip.trunk(images, 0, 0)[0], clip.trunk(images, 4, 4)[0]
    assert torch.equal(few, many)
