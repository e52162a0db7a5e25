"""Combination of attention maps and propagation: known answers."""

from types import SimpleNamespace

import numpy as np
import torch

from clip_wsss.affinities.attention import (
    kept_layers,
    mean_attention,
    propagate,
    selected_attention,
)
from clip_wsss.affinities.box_rule import box_masks
from clip_wsss.affinities.caa import CaaSettings, caa
from clip_wsss.cams.context import Look, MapContext


def test_the_mean_and_its_propagation_are_caa():
    random = torch.Generator().manual_seed(0)
    attention = torch.rand(3, 12, 12, generator=random)
    cam = torch.rand(2, 3, 4, generator=random)
    tower = SimpleNamespace(layers=3)
    looked = Look(tower, torch.zeros(3, 48, 64), (3, 4), [], attention, True)
    context = MapContext("x", np.zeros((48, 64, 3), np.uint8), [0, 1], None, None, looked, cam)
    ours = propagate(cam, mean_attention(attention), box_masks(cam, 0.4, "full"), 3, 2)
    torch.testing.assert_close(ours, caa(context, CaaSettings()), atol=1e-6, rtol=1e-5)


def test_signed_and_absolute_distances_keep_other_maps():
    """Signed, the affinity does not matter: maps with more than the mean sum are kept."""
    affinity = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    attention = torch.stack([torch.full((2, 2), 0.4), affinity, torch.zeros(2, 2)])
    assert kept_layers(attention, affinity, "signed").tolist() == [True, True, False]
    assert kept_layers(attention, 1 - affinity, "signed").tolist() == [True, True, False]
    assert kept_layers(attention, affinity, "absolute").tolist() == [False, True, False]
    selected = selected_attention(attention, affinity, "absolute")
    torch.testing.assert_close(selected, affinity * affinity / (1 + 1e-5), atol=0, rtol=5e-7)


def test_a_map_at_the_mean_distance_is_kept_where_it_is_signed():
    attention = torch.tensor([0.5, 0.25, 0.0])[:, None, None].expand(3, 2, 2)
    assert kept_layers(attention, torch.zeros(2, 2), "signed").tolist() == [True, True, False]
    assert kept_layers(attention, torch.zeros(2, 2), "absolute").tolist() == [False, False, True]


def test_maps_at_one_distance_are_all_kept():
    attention, affinity = torch.full((3, 2, 2), 0.3), torch.full((2, 2), 0.9)
    assert kept_layers(attention, affinity, "signed").all()
    assert kept_layers(attention, affinity, "absolute").all()
    assert torch.isfinite(selected_attention(attention, affinity, "absolute")).all()


def test_the_affinity_gets_no_gradient():
    affinity = torch.rand(4, 4, requires_grad=True)
    assert not selected_attention(torch.rand(2, 4, 4), affinity, "signed").requires_grad


def test_propagation_stays_in_the_boxes_with_power_zero():
    cam = torch.zeros(1, 3, 3)
    cam[0, 1, 1] = 1
    attention = torch.full((9, 9), 1 / 9)
    masks = np.zeros((1, 3, 3), np.uint8)
    assert not propagate(cam, attention, masks, 1, 2).any()
    masks[0, 1, 1] = 1
    torch.testing.assert_close(propagate(cam, attention, masks, 1, 0).float(), cam)
    torch.testing.assert_close(
        propagate(cam, attention, masks, 1, 2).float(), torch.full((1, 3, 3), 1 / 9)
    )
