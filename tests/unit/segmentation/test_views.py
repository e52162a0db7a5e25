"""Views at several scales, where a side has few pixels."""

import pytest
import torch

from clip_wsss.segmentation.views import mean_logits


@pytest.mark.parametrize(("size", "seen"), [((1, 70), (1, 52)), ((1, 1), (1, 1)), ((8, 6), (6, 4))])
def test_a_side_keeps_a_pixel_at_a_small_scale(size, seen):
    views = []

    def forward(view):
        views.append(tuple(view.shape[2:]))
        return view[:, :2]

    found = mean_logits(forward, torch.ones(1, 3, *size), [1.0, 0.75], False)
    assert views == [size, seen]
    torch.testing.assert_close(found, torch.ones(1, 2, *size))
