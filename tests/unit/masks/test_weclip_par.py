"""PAR: the public code's numbers, a slow twin, and known answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from weclip_cases import needs_fixtures, tensor, unfolded_par

from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.par import ParSettings, par, shifted, spread


@needs_fixtures
@pytest.mark.parametrize("kind", ["", "small_"])
def test_par_equals_the_public_code(kind):
    refined = spread(tensor("par", "maps"), tensor("par", f"{kind}image"), ParSettings())
    torch.testing.assert_close(refined, tensor("par", f"{kind}refined"), atol=1e-5, rtol=0)


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 1000))
def test_par_equals_its_slow_twin(height, width, count, seed):
    random = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, height, width, generator=random)
    image = torch.rand(3, height, width, generator=random) * 255
    wanted = unfolded_par(maps, image)
    torch.testing.assert_close(spread(maps, image, ParSettings()), wanted, atol=1e-5, rtol=0)


def test_neither_an_even_image_nor_one_pixel_makes_nan():
    maps = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(spread(maps, torch.full((3, 9, 9), 7.3), ParSettings())).all()
    one = spread(maps[:, :1, :1], torch.zeros(3, 1, 1), ParSettings(iterations=1))
    torch.testing.assert_close(one, 1.01 * maps[:, :1, :1])


def test_normalising_the_image_changes_nothing():
    random = torch.Generator().manual_seed(1)
    maps, image = torch.rand(2, 30, 20, generator=random), torch.rand(3, 30, 20, generator=random)
    shifted = image * torch.tensor([3.0, 50, 255])[:, None, None] - 2
    wanted = spread(maps, image, ParSettings())
    torch.testing.assert_close(spread(maps, shifted, ParSettings()), wanted, atol=1e-4, rtol=0)


def test_a_map_follows_the_edge_of_the_image():
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:, 20:] = 200
    rgb += np.random.default_rng(0).integers(0, 20, rgb.shape).astype(np.uint8)
    right = np.zeros((40, 40), np.float16)
    right[:, 16:] = 0.8  # four columns too far
    scores = np.stack([1 - right, right])
    refined = par(MaskContext(scores, rgb), ParSettings(iterations=10))
    assert refined.dtype == np.float32
    assert refined.shape == (2, 40, 40)
    assert refined.min() >= 0
    assert refined.max() <= 1
    label = refined.argmax(axis=0)
    assert (label[:, 20:] == 1).mean() > 0.99
    assert (label[:, :20] == 0).mean() > 0.99


def test_even_scores_stay_and_a_step_is_down_and_to_the_right():
    scores = np.full((2, 9, 9), 0.25, np.float16)
    rgb = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    refined = par(MaskContext(scores, rgb), ParSettings())
    np.testing.assert_allclose(refined, scores, atol=1e-5)
    canvas = torch.arange(25).reshape(1, 5, 5)
    assert shifted(canvas, (1, -1), 1, (3, 3))[0, 1, 1] == canvas[0, 3, 1]


def test_no_iteration_gives_the_scores():
    scores = np.random.default_rng(0).random((3, 5, 6)).astype(np.float16)
    rgb = np.zeros((5, 6, 3), np.uint8)
    unchanged = par(MaskContext(scores, rgb), ParSettings(iterations=0))
    np.testing.assert_array_equal(unchanged, scores.astype(np.float32))


def test_settings_are_checked():
    for bad in ({"iterations": -1}, {"contrast": 0}, {"dilations": []}, {"rounds": 3}):
        with pytest.raises(ValidationError):
            ParSettings.model_validate(bad)
