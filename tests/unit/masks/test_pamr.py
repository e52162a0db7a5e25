"""PAMR: a slow twin and known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.pamr import PamrSettings, pamr


def slow(scores, rgb, own):
    """Pixel by pixel, in float64."""
    height, width = rgb.shape[:2]
    image, scores = rgb.astype(float), scores.astype(float)

    def near(y, x):
        places = [(dy * r, dx * r) for r in own.dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        inside = [(np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1))
                  for dy, dx in places]  # fmt: skip
        return inside, [one for one, step in zip(inside, places, strict=True) if any(step)]

    for _ in range(own.iterations):
        refined = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                all_of_them, others = near(y, x)
                deviation = np.std([image[place] for place in all_of_them], axis=0, ddof=1)
                likeness = [
                    -(np.abs(image[place] - image[y, x]) / (own.contrast * deviation + 1e-8)).mean()
                    for place in others
                ]
                weights = np.exp(np.array(likeness) - max(likeness))
                values = np.array([scores[:, i, j] for i, j in others])
                refined[:, y, x] = weights @ values / weights.sum()
        scores = refined
    return scores


@settings(max_examples=6)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 1000))
def test_pamr_equals_its_slow_twin(height, width, seed):
    chance = np.random.default_rng(seed)
    rgb = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgb[..., 0] %= 3  # nearly even
    scores = chance.random((2, height, width)).astype(np.float16)
    own = PamrSettings(iterations=2, dilations=[1, 3])
    wanted = slow(scores, rgb, own)
    np.testing.assert_allclose(pamr(MaskContext(scores, rgb), own), wanted, atol=1e-4)


def test_even_scores_stay_and_an_even_image_takes_the_mean():
    scores = np.stack([np.full((9, 9), 0.25), np.zeros((9, 9))]).astype(np.float16)
    scores[1, 4, 4] = 1
    rgb = np.full((9, 9, 3), 7, np.uint8)
    refined = pamr(MaskContext(scores, rgb), PamrSettings(iterations=1, dilations=[1]))
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined[0], 0.25, atol=1e-6)
    assert refined[1, 4, 4] == 0, "a pixel is not its own neighbour"
    np.testing.assert_allclose(refined[1, 3:6, 3], 1 / 8, atol=1e-6)


def test_a_map_follows_the_edge_of_the_image():
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:, 20:] = 200
    rgb += np.random.default_rng(0).integers(0, 20, rgb.shape).astype(np.uint8)
    right = np.zeros((40, 40), np.float16)
    right[:, 16:] = 0.8  # four columns too far
    refined = pamr(MaskContext(np.stack([1 - right, right]), rgb), PamrSettings())
    label = refined.argmax(axis=0)
    assert (label[:, 20:] == 1).mean() > 0.99
    assert (label[:, :20] == 0).mean() > 0.99


def test_settings_are_checked():
    for bad in ({"iterations": -1}, {"contrast": 0}, {"dilations": []}, {"rounds": 3}):
        with pytest.raises(ValidationError):
            PamrSettings.model_validate(bad)
