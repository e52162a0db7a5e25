"""Blocks whose matrices oneDNN has laid out equal the plain ones."""

import pytest
import torch
from clip_cases import make_openai_state_dict, random_clip, small_config

from clip_wsss.models import frozen_clip
from clip_wsss.models.layers import can_pack


def streams(tmp_path, precision, monkeypatch, packed=True):
    """What `streams` gives of three images, by packed blocks or by plain ones."""
    config = small_config(layers=4)
    state = make_openai_state_dict(config, 3)
    clip = random_clip(tmp_path, config, state, precision=precision)
    if not packed:
        monkeypatch.setattr(frozen_clip, "can_pack", lambda block: False)
    images = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    found = clip.streams(images, 3)
    assert [one is not None for one in clip._packed] == [packed] * 3
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


def test_what_is_no_ordinary_block_or_has_no_operator_is_not_packed(tmp_path, monkeypatch):
    config = small_config()
    block = random_clip(tmp_path, config, make_openai_state_dict(config, 3)).visual
    block = block.transformer.resblocks[0]
    assert can_pack(block)
    block.mlp.gelu = torch.nn.GELU()
    assert not can_pack(block)
    block.mlp.gelu = type("QuickGELU", (torch.nn.Module,), {})()
    assert can_pack(block)
    block.half()
    assert not can_pack(block)
    block.float()
    monkeypatch.setattr("clip_wsss.models.layers._OPS", object())
    assert not can_pack(block)
