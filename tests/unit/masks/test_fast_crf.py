"""The fast dense CRFs against pydensecrf, and their lattice against a small twin."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_wsss.core.confidence import EDGES, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_rgb
from clip_wsss.core.maps import background_scores
from clip_wsss.masks import fast_crf, torch_crf
from clip_wsss.masks.fast_crf import MeanField
from clip_wsss.masks.refinements.crf import crf_image, half_energies
from clip_wsss.masks.refinements.crf import unary as unary_of

PHOTOGRAPHS = sorted(
    (Path(__file__).parents[2] / "fixtures/parity/VOC2012/JPEGImages").glob("*.jpg")
)
CUDA = torch.cuda.is_available()
FIELD = MeanField(
    iterations=10,
    gaussian_sxy=1,
    gaussian_compat=3,
    bilateral_sxy=67,
    bilateral_srgb=3,
    bilateral_compat=4,
)


def fast(unary, rgb, **settings):
    """It must not have fallen back: the tests would compare pydensecrf with itself."""
    reasons = []
    found = fast_crf.fast(unary, rgb, replace(FIELD, **settings), reasons)
    assert reasons == []
    assert found.dtype == np.float32
    return found


def exact(unary, rgb, **settings):
    return fast_crf.exact(unary, rgb, replace(FIELD, **settings))


def blocky_unary(labels, shape, seed, sharpness=3.0):
    """-log of the softmax of random scores, constant on blocks of 24 x 24, with a little noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.standard_normal((labels, -(-shape[0] // 24), -(-shape[1] // 24)))
    logits = blocks.repeat(24, axis=1).repeat(24, axis=2)[:, : shape[0], : shape[1]] * sharpness
    logits = logits + 0.1 * rng.standard_normal(logits.shape)
    unary = np.log(np.exp(logits).sum(axis=0)) - logits
    return np.ascontiguousarray(unary.reshape(labels, -1).astype(np.float32))


def assert_equal(found, wanted):
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    # A tie of two labels is nobody's: pixels where pydensecrf's own best two are equal to 1e-5.
    best = np.sort(wanted, axis=0)[-2:]
    tie = best[-1] - best[0] < 1e-5 if len(wanted) > 1 else np.zeros(wanted.shape[1:], bool)
    differ = (found.argmax(axis=0) != wanted.argmax(axis=0)) & ~tie
    assert differ.mean() <= 1e-4
    sides = (found.max(axis=0) >= 0.95) != (wanted.max(axis=0) >= 0.95)
    assert sides.mean() <= 1e-4


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_photographs(path, labels):
    rgb = read_rgb(path)
    unary = blocky_unary(labels, rgb.shape[:2], labels)
    assert_equal(fast(unary, rgb), exact(unary, rgb))


# One more than a register, than two, than a cache line, and than each with a block behind it.
@pytest.mark.parametrize("labels", [5, 6, 9, 10, 17, 18, 21, 22, 26, 81])
def test_many_labels(labels):
    rgb = read_rgb(PHOTOGRAPHS[0])[:120, :150]
    unary = blocky_unary(labels, rgb.shape[:2], labels)
    assert_equal(fast(unary, rgb), exact(unary, rgb))


@pytest.mark.parametrize("labels", [21, 81])
def test_predictions_of_a_segmentor(labels):
    """Most probabilities next to nothing, and two labels present."""
    rgb = read_rgb(PHOTOGRAPHS[1])
    unary = blocky_unary(labels, rgb.shape[:2], labels, sharpness=1.0)
    unary[[3, labels - 1]] -= 12 * (blocky_unary(2, rgb.shape[:2], 0) < 0.7)
    assert_equal(fast(unary, rgb), exact(unary, rgb))


def test_wrapped_bgr():
    rgb = crf_image(read_rgb(PHOTOGRAPHS[1]), "wrapped-bgr")
    unary = blocky_unary(3, rgb.shape[:2], 0)
    assert_equal(fast(unary, rgb), exact(unary, rgb))


# The last three have chunks of 1024 pixels: one, one and 15 pixels, several narrow ones.
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 2), (1, 9), (7, 1), (2, 3), (5, 4), (63, 131), (16, 64), (1039, 1), (900, 3)],
)
@pytest.mark.parametrize("labels", [2, 3, 7, 21, 81])
def test_any_size_of_noise(shape, labels):
    rng = np.random.default_rng(sum(shape))
    rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    unary = rng.random((labels, shape[0] * shape[1]), dtype=np.float32) * 3
    assert_equal(fast(unary, rgb), exact(unary, rgb))


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("labels", [2, 21, 81])
def test_flat_images(value, labels):
    rgb = np.full((50, 70, 3), value, np.uint8)
    unary = blocky_unary(labels, rgb.shape[:2], value)
    assert_equal(fast(unary, rgb), exact(unary, rgb))


def test_saturated_unaries():
    rgb = read_rgb(PHOTOGRAPHS[2])[:60, :110]
    rng = np.random.default_rng(0)
    for labels, high in ((2, 11.5), (3, 11.5), (3, 1e6), (7, 1e6), (21, 11.5), (81, 1e6)):
        unary = np.where(rng.random((labels, 60 * 110)) < 0.5, 0, high).astype(np.float32)
        unary[rng.integers(0, labels, 60 * 110), np.arange(60 * 110)] = 0  # one is possible
        assert_equal(fast(unary, rgb), exact(unary, rgb))


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 0},
        {"iterations": 1},
        {"bilateral_srgb": 60},
        {"bilateral_srgb": 1000, "bilateral_sxy": 5},
        {"gaussian_sxy": 3, "bilateral_sxy": 80, "bilateral_srgb": 13, "bilateral_compat": 10},
        {"gaussian_sxy": 0.4},
        {"gaussian_sxy": 200},
        {"gaussian_compat": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("labels", [3, 21])
def test_other_settings(settings, labels):
    rgb = read_rgb(PHOTOGRAPHS[3])[:100, :141]
    unary = blocky_unary(labels, rgb.shape[:2], 1)
    assert_equal(fast(unary, rgb, **settings), exact(unary, rgb, **settings))


def test_one_label_is_certain():
    rgb = np.zeros((3, 4, 3), np.uint8)
    assert_equal(fast(np.ones((1, 12), np.float32), rgb), np.ones((1, 3, 4), np.float32))


def test_equal_bytes_whatever_came_before():
    rgb = read_rgb(PHOTOGRAPHS[4])
    for labels in (2, 3, 6, 21, 81):
        unary = blocky_unary(labels, rgb.shape[:2], 5)
        once = fast(unary, rgb)
        fast(unary[:, :100], rgb[:10, :10])
        fast_crf._gaussian.cache_clear()
        assert once.tobytes() == fast(unary, rgb).tobytes()


def test_strided_and_read_only_input():
    rgb = read_rgb(PHOTOGRAPHS[5])[:60, :80]
    unary = blocky_unary(2, (60, 80), 0)
    wanted = fast(unary, np.ascontiguousarray(rgb))
    flipped = np.ascontiguousarray(rgb[..., ::-1])[..., ::-1]
    swapped = np.asfortranarray(unary)
    flipped.setflags(write=False)
    swapped.setflags(write=False)
    assert fast(swapped, flipped).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bilateral_srgb": 0.02}, fast_crf.KEYS_DO_NOT_FIT),
        ({"gaussian_sxy": 1e-3}, fast_crf.KEYS_DO_NOT_FIT),
        ({"unary": np.inf}, fast_crf.NOT_FINITE),
        ({"library": None}, fast_crf.NOT_BUILT),
    ],
    ids=str,
)
def test_falls_back_and_says_so(monkeypatch, change, reason):
    rgb = read_rgb(PHOTOGRAPHS[0])[:30, :40]
    unary = blocky_unary(2, (30, 40), 0)
    if "unary" in change:
        unary[0, 5] = change["unary"]
    if "library" in change:
        monkeypatch.setattr(fast_crf, "_library", lambda: None)
    own = {key: value for key, value in change.items() if key not in ("unary", "library")}
    field = replace(FIELD, **own)
    reasons = ["of an image before"]
    found = fast_crf.fast(unary, rgb, field, reasons)
    assert reasons == ["of an image before", reason]
    np.testing.assert_array_equal(found, fast_crf.exact(unary, rgb, field))


@pytest.mark.parametrize(
    ("unary", "rgb"),
    [
        (np.zeros((2, 11), np.float32), np.zeros((3, 4, 3), np.uint8)),
        (np.zeros((2, 12), np.float64), np.zeros((3, 4, 3), np.uint8)),
        (np.zeros((2, 3, 4), np.float32), np.zeros((3, 4, 3), np.uint8)),
        (np.zeros((2, 12), np.float32), np.zeros((3, 4, 3), np.float32)),
        (np.zeros((2, 12), np.float32), np.zeros((3, 4), np.uint8)),
        (np.zeros((2, 0), np.float32), np.zeros((0, 4, 3), np.uint8)),
    ],
)
def test_bad_input_is_one_line(unary, rgb):
    for function in (
        lambda: fast_crf.fast(unary, rgb, FIELD),
        lambda: torch_crf.torch_crf([unary], [rgb], FIELD),
    ):
        with pytest.raises(InputError, match=r"must be .*; got") as error:
            function()
        assert "\n" not in str(error.value)


def test_torch_in_a_batch_equals_fast():
    images = [read_rgb(path)[:99, : 131 + 10 * i] for i, path in enumerate(PHOTOGRAPHS)]
    images.append(np.full((1, 5, 3), 200, np.uint8))
    unaries = [
        blocky_unary(labels, rgb.shape[:2], labels)
        for labels, rgb in zip((2, 3, 4, 81, 21, 3, 2), images, strict=True)
    ]
    reasons = []
    found = torch_crf.torch_crf(unaries, images, FIELD, fallbacks=reasons)
    assert reasons == []
    for probabilities, unary, rgb in zip(found, unaries, images, strict=True):
        assert probabilities.dtype == np.float32
        assert_equal(probabilities, fast(unary, rgb))


def test_torch_of_saturated_unaries_equals_fast():
    rng = np.random.default_rng(1)
    images = [read_rgb(path)[:60, :80] for path in PHOTOGRAPHS[:2]]
    unaries = [np.where(rng.random((21, 4800)) < 0.5, 0, 1e6).astype(np.float32) for _ in images]
    found = torch_crf.torch_crf(unaries, images, FIELD)
    for probabilities, unary, rgb in zip(found, unaries, images, strict=True):
        assert_equal(probabilities, fast(unary, rgb))


def test_torch_on_whole_photographs_equals_fast():
    images = [read_rgb(path) for path in PHOTOGRAPHS]
    unaries = [blocky_unary(3, rgb.shape[:2], i) for i, rgb in enumerate(images)]
    for probabilities, unary, rgb in zip(
        torch_crf.torch_crf(unaries, images, FIELD), unaries, images, strict=True
    ):
        assert_equal(probabilities, fast(unary, rgb))


def test_torch_falls_back_for_the_image_that_needs_it():
    rgb = read_rgb(PHOTOGRAPHS[0])[:30, :40]
    good = blocky_unary(2, (30, 40), 0)
    bad = good.copy()
    bad[1, 7] = np.inf
    reasons = []
    found = torch_crf.torch_crf([good, bad], [rgb, rgb], FIELD, fallbacks=reasons)
    assert reasons == [fast_crf.NOT_FINITE]
    assert_equal(found[0], exact(good, rgb))
    np.testing.assert_array_equal(found[1], exact(bad, rgb))
    field, reasons = replace(FIELD, bilateral_srgb=0.02), []
    torch_crf.torch_crf([good, good], [rgb, rgb], field, fallbacks=reasons)
    assert reasons == [fast_crf.KEYS_DO_NOT_FIT] * 2


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not CUDA, reason="needs CUDA"))],
)
def test_what_the_device_decides_is_what_the_probabilities_say(device):
    images = [read_rgb(path)[:60, :80] for path in PHOTOGRAPHS[:3]]
    rng = np.random.default_rng(2)
    scores = [rng.random((labels, 4800)).astype(np.float16) ** 2 for labels in (2, 4, 3)]
    scores[1][:, :9] = 1  # ties, which the first label wins
    unaries = [unary_of(one) for one in scores]
    own = torch_crf.decided_crf(unaries, images, FIELD, device)
    looked_up = torch_crf.decided_crf(scores, images, FIELD, device, half_energies())
    for found in (own, looked_up):
        refined = torch_crf.torch_crf(unaries, images, FIELD, device)
        for (label, codes), probabilities in zip(found, refined, strict=True):
            assert label.dtype == codes.dtype == np.uint8
            np.testing.assert_array_equal(label, probabilities.argmax(axis=0))
            np.testing.assert_array_equal(codes, encode(probabilities.max(axis=0)))
    for ours, theirs in zip(refined, torch_crf.torch_crf(unaries, images, FIELD), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_what_is_not_a_number_has_a_code_of_its_own():
    rgb, scores = read_rgb(PHOTOGRAPHS[0])[:6, :8], np.full((2, 48), 0.5, np.float16)
    broken = scores.copy()
    broken[1, 7] = np.nan
    reasons, images = [], [rgb, rgb]
    good, bad = torch_crf.decided_crf(
        [scores, broken], images, FIELD, energies=half_energies(), fallbacks=reasons
    )
    assert reasons == [fast_crf.NOT_FINITE]
    assert (good[1] < len(EDGES)).all()
    assert (bad[1] == torch_crf.NOT_A_NUMBER).any()


def test_energies_of_halves_are_looked_up_byte_by_byte():
    halves = np.linspace(0, 1, 5000).astype(np.float16)[None]
    wanted = -np.log(np.clip(halves, np.float16(1e-5), np.float16(1)))
    assert unary_of(halves).tobytes() == wanted.astype(np.float32).tobytes()
    for power in (1, 1.5, 4):
        wanted = np.power(1 - halves, np.float16(power))
        assert background_scores(halves[:, None], power).tobytes() == wanted.tobytes()


# A slow twin of the lattice: dictionaries of points, the definition of Adams, Baek and Davis.


def twin_filter(features, values):
    """splat, blur, slice of (N, C) values at (N, d) features in float64, without normalisation."""
    d = features.shape[1]
    points, vertices = {}, []
    scale = np.sqrt(2 / 3) * (d + 1) / np.sqrt([(i + 1) * (i + 2) for i in range(d)])
    basis = np.zeros((d, d + 1))  # onto the hyperplane of zero sum
    for i in range(d):
        basis[i, : i + 1], basis[i, i + 1] = 1, -(i + 1)
    for position in (features * scale) @ basis:
        nearest = np.round(position / (d + 1)).astype(int) * (d + 1)
        order = np.argsort(-(position - nearest), kind="stable")
        excess = nearest.sum() // (d + 1)
        if excess > 0:  # too far out: step back where the rest is least
            nearest[order[d + 1 - excess :]] -= d + 1
        elif excess < 0:
            nearest[order[:-excess]] += d + 1
        order = np.argsort(-(position - nearest), kind="stable")
        rest = (position - nearest)[order] / (d + 1)
        weights = np.append(rest[:-1] - rest[1:], 1 + rest[-1] - rest[0])[::-1]
        found = []
        for r in range(d + 1):
            key = nearest + r
            key[order[d + 1 - r :]] -= d + 1
            found.append(points.setdefault(tuple(key), len(points)))
        vertices.append((found, weights))
    lattice = np.zeros((len(points), values.shape[1]))
    for (found, weights), value in zip(vertices, values, strict=True):
        np.add.at(lattice, found, np.outer(weights, value))
    for axis in range(d + 1):
        blurred = lattice.copy()
        for key, point in points.items():
            for sign in (1, -1):
                other = np.array(key) + sign
                other[axis] -= sign * (d + 1)
                if tuple(other) in points:
                    blurred[point] += lattice[points[tuple(other)]] / 2
        lattice = blurred
    return np.stack([w @ lattice[found] for found, w in vertices]) / (1 + 2.0**-d)


def test_fast_equals_the_twin_of_the_lattice():
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 40, (8, 12, 3), dtype=np.uint8)  # 96 pixels: nothing is filled up
    unary = rng.random((3, 96), dtype=np.float32)
    y, x = np.divmod(np.arange(96), 12)
    kernels = []
    for features, compat in (
        (np.stack([x, y], 1) / 1.0, 3),
        (np.concatenate([np.stack([x, y], 1) / 67, rgb.reshape(-1, 3) / 3], 1), 4),
    ):
        norm = 1 / np.sqrt(twin_filter(features, np.ones((96, 1))))
        kernels.append((features, norm, compat))
    q = np.exp(-unary.T) / np.exp(-unary.T).sum(1, keepdims=True)
    for _ in range(3):
        logits = -unary.T.astype(float)
        for features, norm, compat in kernels:
            logits = logits + compat * norm * twin_filter(features, norm * q)
        q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = fast(unary, rgb, iterations=3).reshape(3, -1).T
    np.testing.assert_allclose(found, q, atol=1e-4)


def test_points_on_both_sides_of_the_origin_have_keys_of_their_own():
    """Keys have room for the whole range of coordinates, not for what lies above 0."""
    rng = np.random.default_rng(0)
    near = torch.tensor(rng.uniform(150, 154, (64, 2)), dtype=torch.float32)
    values = torch.tensor(rng.uniform(size=(128, 3)), dtype=torch.float32)
    both = torch_crf.Lattice(
        torch.cat([near, near - 304]), torch.zeros(128).long(), torch.ones(128)
    )
    alone = torch_crf.Lattice(near, torch.zeros(64).long(), torch.ones(64))
    assert torch.equal(both(values)[:64], alone(values[:64]))
