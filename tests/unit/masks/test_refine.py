"""Affinities and mask refinements: known answers (docs/parity.md, facts 10, 11, 15)."""

import cv2
import numpy as np
import pytest
import torch
from gradcam_twin import boxed, refined
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_wsss.affinities.attention import propagate, sinkhorn
from clip_wsss.affinities.box_rule import box_mask, box_masks, boxes
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import min_max
from clip_wsss.core.methods import method
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.crf import CrfSettings, crf, crf_image, unary
from clip_wsss.masks.refinements.none import none
from clip_wsss.masks.refinements.par import ParSettings, par
from clip_wsss.runs.settings import validated_entry


def caa(cam, attention, rounds=3, power=2, threshold=0.4, edge="full"):
    """The formula of CAA, on the mean of some attention maps."""
    masks = box_masks(cam, threshold, edge)
    return propagate(cam, attention.double().mean(dim=0), masks, rounds, power)


def test_min_max_scales_each_map_by_itself():
    maps = torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])
    scaled = min_max(maps)
    torch.testing.assert_close(scaled, torch.tensor([[[0, 2 / (2 + 1e-7)]], [[0, 0]]]))
    assert min_max(torch.tensor([[0, 3e-7]]))[0, 1].item() == pytest.approx(0.75)


def test_sinkhorn_divides_columns_first():
    attention = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    columns_then_rows = torch.tensor([[0.4, 0.6], [2 / 3, 1 / 3]])
    expected = (columns_then_rows + columns_then_rows.T) / 2
    torch.testing.assert_close(sinkhorn(attention, 1), expected)
    torch.testing.assert_close(sinkhorn(attention, 0), (attention + attention.T) / 2)


def test_patches_that_attend_to_cls_only_stay_finite():
    attention = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.2, 0.8]])
    spread = sinkhorn(attention, 3)
    assert torch.isfinite(spread).all()
    assert not spread[0].any()
    assert torch.isfinite(caa(torch.ones(1, 1, 3), attention[None])).all()


def test_boxes_of_two_components_and_a_hole():
    cam = np.zeros((6, 8), np.float32)
    cam[0:3, 0:3] = 1
    cam[1, 1] = 0  # a hole: the contour around it has the box of the ring
    cam[5, 7] = 0.5
    full = boxes(cam, 0.4, "full")
    assert full.tolist() == [[0, 0, 3, 3], [7, 5, 8, 6]]
    clamped = boxes(cam, 0.4, "clamp")
    assert clamped.tolist() == [[0, 0, 3, 3], [7, 5, 7, 5]]
    assert not box_mask(cam, 0.4, "clamp")[5, 7]
    assert box_mask(cam, 0.4, "full")[5, 7]
    assert box_mask(cam, 0.5, "full").sum() == 9  # 0.5 is 127 of 255: not above int(127.5)


def test_components_touch_at_corners():
    cam = np.eye(3, dtype=np.float32)
    assert boxes(cam, 0.4, "full").tolist() == [[0, 0, 3, 3]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 19)])
def test_zero_cam_has_one_empty_box(shape):
    zero = np.zeros(shape, np.float32)
    for edge in ("clamp", "full"):
        assert boxes(zero, 0.4, edge).tolist() == [[0, 0, 0, 0]]
        assert not box_mask(zero, 0.4, edge).any()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    threshold=st.sampled_from([0.0, 0.2, 0.4, 0.7, 1.0]),
    edge=st.sampled_from(["clamp", "full"]),
)
def test_box_mask_equals_its_twin(seed, shape, threshold, edge):
    cam = np.random.default_rng(seed).random(shape, dtype=np.float32) ** 3
    np.testing.assert_array_equal(box_mask(cam, threshold, edge), boxed(cam, threshold, edge))


def test_caa_spreads_along_the_affinity():
    """Patch 0 is above the threshold; patch 2, which attends to it, gets its share."""
    attention = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])[None]
    cam = torch.tensor([[[1.0, 0.2, 0.0]]])
    np.testing.assert_allclose(caa(cam, attention), [[[0.5, 0.0, 0.5]]])
    clamped = caa(cam, attention, edge="clamp")
    assert not clamped.any()  # a grid of one row has no row that the clamp keeps


def test_caa_of_nearly_even_attention_keeps_its_digits():
    """What differs in the 5th digit decides the map after min-max."""
    generator = torch.Generator().manual_seed(0)
    attention = 1 / 300 + 1e-8 * torch.rand(8, 300, 300, generator=generator, dtype=torch.float64)
    cam = torch.rand(1, 15, 20, generator=generator)
    fast = min_max(caa(cam, attention.float()))[0]
    stored = [torch.nn.functional.pad(own, (1, 0, 1, 0)) for own in attention.float()]
    np.testing.assert_allclose(
        fast, refined(cam[0].numpy(), stored, 8, 3, 0.4, "full", 2), atol=1e-5
    )


def test_wrapped_image():
    rgb = np.array([[[130, 116, 0], [255, 255, 255]]], np.uint8)
    # B: 0 - 104.008 -> -104 -> 152; G: 116 - 116.669 -> -0.669 -> 0; R: 130 - 122.675 -> 7
    assert crf_image(rgb, "wrapped-bgr").tolist() == [[[152, 0, 7], [150, 138, 132]]]
    assert crf_image(rgb, "rgb").tolist() == rgb.tolist()


def test_crf_follows_the_edge_of_the_image():
    rgb = np.zeros((20, 20, 3), np.uint8)
    rgb[:, 10:] = 255
    scores = np.empty((2, 20, 20), np.float16)
    scores[1] = 0.2
    scores[1, :, 12:] = 0.9  # two columns short of the edge
    scores[0] = 1 - scores[1]
    probabilities = crf(MaskContext(scores, rgb), CrfSettings())
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    label = probabilities.argmax(axis=0)
    assert not label[:, :10].any()
    assert label[:, 10:].all()


def test_the_unary_of_float16_is_made_in_float16():
    # FAULTS 16: fact 15. -log of a float16 is rounded to one. Beyond 1 there is no probability.
    scores = np.array([0.3, 0.7, 1e-4, 0.95, 0, 1, 1.5, 1], np.float16).reshape(1, 2, 4)
    energies = unary(scores)
    assert energies.dtype == np.float32
    assert energies.shape == (1, 8)
    wanted = [1.2041015625, 0.3564453125, 9.2109375, 0.05108642578125, 11.5078125, 0, 0, 0]
    assert energies[0].tolist() == wanted
    # Predictions are float32; 1e-5 is no float16.
    exact = [1.20381, 0.356396, 9.210175, 0.0510877, 11.512925, 0, 0, 0]
    np.testing.assert_allclose(unary(scores.astype(np.float32))[0], exact, atol=1e-5)


def test_crf_survives_zeros_and_ones():
    scores = np.zeros((3, 7, 5), np.float16)
    scores[0] = 1
    probabilities = crf(MaskContext(scores, np.zeros((7, 5, 3), np.uint8)), CrfSettings())
    assert np.isfinite(probabilities).all()
    assert not probabilities.argmax(axis=0).any()


def test_no_refinement_keeps_scores():
    scores = np.random.default_rng(0).random((3, 4, 5)).astype(np.float16)
    np.testing.assert_array_equal(none(MaskContext(scores, np.zeros((4, 5, 3), np.uint8))), scores)


def test_an_unknown_refinement_is_refused_with_those_that_are_known():
    with pytest.raises(
        InputError, match=r"must be one of crf, none, pamr, par, sepl, or .* got crf2"
    ):
        method("refinement", "crf2")


def test_the_fast_backend_gives_the_labels_of_the_reference(caplog):
    rng = np.random.default_rng(3)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 3)
    scores = cv2.GaussianBlur(rng.random((60, 80, 3), dtype=np.float32), (0, 0), 5)
    scores = scores.transpose(2, 0, 1).astype(np.float16)
    context = MaskContext(scores, rgb)
    found = [crf(context, CrfSettings(backend=name)) for name in ("pydensecrf", "fast")]
    assert (found[0].argmax(axis=0) == found[1].argmax(axis=0)).mean() >= 0.9999
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert not caplog.records


def test_a_fallback_is_said(monkeypatch, caplog):
    def fallback(unary, rgb, field, fallbacks):
        fallbacks.append("no reason")
        return np.zeros((len(unary), *rgb.shape[:2]), np.float32)

    monkeypatch.setattr("clip_wsss.masks.refinements.crf.fast", fallback)
    rgb = np.zeros((4, 6, 3), np.uint8)
    crf(MaskContext(np.full((2, 4, 6), 0.5, np.float16), rgb), CrfSettings(backend="fast"))
    assert "pydensecrf did one of 6 x 4: no reason" in caplog.text


@pytest.mark.parametrize("backend", ["pydensecrf", "fast"])
def test_the_faster_backend_is_proposed_to_the_other_one_alone(monkeypatch, backend):
    # FAULTS 17, 29
    monkeypatch.setattr("clip_wsss.core.memory.SMALL", 0)
    monkeypatch.setattr("clip_wsss.core.memory.available", lambda device: 1000)
    scores = np.full((2, 40, 60), 0.5, np.float16)
    context = MaskContext(scores, np.zeros((40, 60, 3), np.uint8), id="a")
    with pytest.raises(InputError, match="a: a CRF of 60 x 40 pixels and 2 labels") as caught:
        crf(context, CrfSettings(backend=backend))
    assert ("use the backend fast" in str(caught.value)) == (backend == "pydensecrf")


def test_par_is_a_mask_refinement():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    scores = np.random.default_rng(1).random((3, 20, 24)).astype(np.float16)
    own, context = ParSettings(iterations=3), MaskContext(scores, rgb)
    found = method("refinement", "par").bound({"iterations": 3})(context)
    np.testing.assert_array_equal(found, par(context, own))
    assert found.shape == scores.shape
    assert found.dtype == np.float32


def test_settings_of_other_methods_are_refused():
    entry = {"par": {"iterations": 3}, "background_power": 2.0, "refinement": "par"}
    used = validated_entry("masks", entry, "masks").used()
    assert used == entry
    with pytest.raises(InputError, match="crf: unknown key `crf`"):
        validated_entry("masks", entry | {"crf": {"iterations": 4}}, "masks")
    with pytest.raises(
        InputError, match="crf: null removes what a parent sets here, and no parent"
    ):
        validated_entry("masks", entry | {"crf": None}, "masks")


@pytest.mark.parametrize("key", ["gaussian_sxy", "bilateral_sxy", "bilateral_srgb"])
def test_deviations_whose_coordinates_leave_an_integer_are_refused(key):
    """pydensecrf ends the process with them, or writes where it should not."""
    assert getattr(CrfSettings(**{key: 1e-3}), key) == 1e-3
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.001"):
        CrfSettings(**{key: 1e-6})
