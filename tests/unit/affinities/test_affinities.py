"""Sources of attention, masks and affinities: known answers, slow twins, equivariance."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_wsss.affinities.attention import propagate, sinkhorn
from clip_wsss.affinities.box_rule import box_masks
from clip_wsss.affinities.caa import CaaSettings, caa
from clip_wsss.affinities.cda import CdaSettings, cda, distributions, divergence
from clip_wsss.affinities.cosine import CosineSettings, cosine
from clip_wsss.affinities.propagation import masks_of
from clip_wsss.affinities.sources import AttentionSettings, attention_of
from clip_wsss.affinities.spectral import SpectralSettings, spectral
from clip_wsss.affinities.superpixels import (
    SuperpixelSettings,
    joined,
    kept_regions,
    superpixel_masks,
)
from clip_wsss.cams.context import Look, MapContext, fitted
from clip_wsss.core.errors import InputError

GRID, LAYERS, PATCH = (3, 4), 3, 8
N = GRID[0] * GRID[1]


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class FakeTower:
    """Attention maps by kind and block, and features, without a network."""

    layers, patch, logit_scale = LAYERS, (PATCH, PATCH), 10.0
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.3, 0.4], np.float32)

    def __init__(self, features=None, n=N, seed=0):
        self.maps = {
            kind: random(LAYERS, n, n, seed=seed + place) / n
            for place, kind in enumerate(("qk", "qq", "kk", "vv"))
        }
        self.features = features

    def attention(self, block, x, kind, grid=None):
        return self.maps[kind][block][None]

    def patches(self, x, grid=None):
        return self.features[None]


def looked(tower, grid=GRID, image=None):
    pixels = np.zeros((grid[0] * PATCH, grid[1] * PATCH, 3)) if image is None else image / 255
    pixels = torch.from_numpy((pixels - tower.mean) / tower.std).permute(2, 0, 1).float()
    held = tower.maps["qk"].clone()
    return Look(tower, pixels, grid, [None] * LAYERS, held, True)


def context(maps, tower=None, image=None, areas=None, texts=None, grid=GRID, **others):
    """A context of (K, gh, gw) maps; `areas` are the superpixels that SLIC would have made."""
    look = looked(tower or FakeTower(n=grid[0] * grid[1]), grid, image)
    for name, other in others.items():
        look._made["tower", name, 1.0, False] = other
    if areas is not None:
        look._made["of a method", "", ("superpixels", 100, 10.0, 0, "lab")] = areas
    foreground, background = (None, None) if texts is None else texts
    rgb = np.zeros((grid[0] * PATCH, grid[1] * PATCH, 3), np.uint8) if image is None else image
    keys = list(range(len(maps)))
    towers = dict.fromkeys(others)
    return MapContext("x", rgb, keys, foreground, background, look, maps, towers)


# ---- sources ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "blocks"),
    [
        ({}, "qk", [0, 1, 2]),
        ({"layers": 2}, "qk", [1, 2]),
        ({"attention": "qq", "layers": 2}, "qq", [1, 2]),
        ({"attention": "kk"}, "kk", [0, 1, 2]),
        ({"attention": "vv", "blocks": [0, -1]}, "vv", [0, 2]),
        ({"blocks": [-2]}, "qk", [1]),
    ],
)
def test_blocks_of_a_kind_are_averaged(said, kind, blocks):
    tower = FakeTower()
    found = attention_of(context(random(1, *GRID), tower), AttentionSettings(**said))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, tower.maps[kind][blocks].double().mean(dim=0))


def test_two_known_maps_are_mixed_by_their_weights():
    tower, other = FakeTower(), FakeTower(seed=9)
    mixed = [{"tower": "dino", "weight": 3.0, "layers": 1}]
    own = AttentionSettings.model_validate({"weight": 2.0, "attention": "qq", "mixed": mixed})
    found = attention_of(context(random(1, *GRID), tower, dino=looked(other)), own)
    wanted = 0.4 * tower.maps["qq"].mean(dim=0) + 0.6 * other.maps["qk"][-1]
    torch.testing.assert_close(found, wanted.double(), atol=1e-7, rtol=0)


def test_a_tower_with_other_patches_is_resized():
    coarse = FakeTower(n=4)
    ours = context(random(1, *GRID), dino=looked(coarse, (2, 2)))
    for kind in ("qk", "vv"):
        own = AttentionSettings(tower="dino", attention=kind, layers=1)
        wanted = fitted(coarse.maps[kind][-1].double(), (2, 2), GRID)
        torch.testing.assert_close(attention_of(ours, own), wanted)
    coarse.maps["vv"][-1] = 1 / 4
    found = attention_of(
        context(random(1, *GRID), dino=looked(coarse, (2, 2))),
        AttentionSettings(tower="dino", attention="vv", layers=1),
    )
    torch.testing.assert_close(found, torch.full((N, N), 1 / N, dtype=torch.float64))


def test_a_block_that_a_tower_lacks_is_one_line():
    with pytest.raises(
        InputError, match=r"attention: block 3 must be from -3, the first, to 2, the last"
    ):
        attention_of(context(random(1, *GRID)), AttentionSettings(blocks=[3]))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"layers": 99}, "attention of 99 blocks is asked for, and the tower has 3"),
        ({"layers": 99, "attention": "vv"}, "attention of 99 blocks is asked for"),
        ({"mixed": [{"layers": 99, "attention": "kk"}]}, "attention of 99 blocks is asked for"),
        ({"blocks": [0, 0]}, r"blocks \[0, 0\] names a block of the 3 twice"),
        ({"blocks": [0, -3]}, r"blocks \[0, -3\] names a block of the 3 twice"),
    ],
)
def test_blocks_are_what_the_tower_has_once(said, message):
    with pytest.raises(InputError, match=message):
        attention_of(context(random(1, *GRID)), AttentionSettings.model_validate(said))


def test_caa_at_its_defaults_is_what_it_was():
    maps, tower = random(2, *GRID), FakeTower()
    mean = tower.maps["qk"].mean(dim=0, dtype=torch.float64)
    wanted = propagate(maps, mean, box_masks(maps, 0.4, "full"), 3, 2)
    assert torch.equal(caa(context(maps, tower), CaaSettings()), wanted)


@pytest.mark.parametrize("mask", ["boxes", "superpixels", "none"])
@pytest.mark.parametrize(("rounds", "power"), [(3, 2), (0, 1), (1, 3)])
def test_images_together_equal_their_slow_twin(mask, rounds, power):
    """Images of one, three and two classes; a GPU is given them at once."""
    areas = np.full((5, N), PATCH**2 / 5)
    contexts = [
        context(random(count, *GRID, seed=count), FakeTower(seed=count), areas=areas)
        for count in (1, 3, 2)
    ]
    own = CaaSettings(mask=mask, sinkhorn=rounds, power=power)
    together = caa.batch(contexts, own)
    alone = torch.cat([caa(one, own) for one in contexts])
    assert together.dtype == torch.float64
    assert alone.std() > 0.01
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)


# ---- masks -----------------------------------------------------------------------------------


def test_a_mask_of_ones_is_plain_propagation():
    maps, tower = random(2, *GRID), FakeTower()
    own = CaaSettings(mask="none", sinkhorn=0, power=1)
    mean = tower.maps["qk"].double().mean(dim=0)
    wanted = maps.double().flatten(1) @ (mean + mean.T) / 2
    found = caa(context(maps, tower), own)
    torch.testing.assert_close(found, wanted.reshape(maps.shape))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0, 0.9))
def test_masking_the_columns_is_masking_the_map(seed, share):
    """SSR's SGC: A* = A (.) Mask with Mask_ij = 1 for j in a target region, A* x = A (m x)."""
    maps, tower = random(2, *GRID, seed=seed), FakeTower(seed=seed)
    areas = np.random.default_rng(seed).multinomial(PATCH**2, [1 / 5] * 5, size=N).T.astype(float)
    superpixels = SuperpixelSettings(share=share)
    ours = context(maps, tower, areas=areas)
    own = CaaSettings(mask="superpixels", power=1, superpixels=superpixels)
    affinity = sinkhorn(tower.maps["qk"].mean(dim=0, dtype=torch.float64), 3)
    for one, mask, found in zip(maps.double(), masks_of(ours, own), caa(ours, own), strict=True):
        masked = affinity * torch.from_numpy(mask).flatten()[None].expand(N, N)
        torch.testing.assert_close(found.flatten(), masked @ one.flatten())


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(["region", "map"]))
def test_kept_regions_equal_their_slow_twin(seed, share_of):
    """Pixel by pixel, region by region."""
    chance = np.random.default_rng(seed)
    regions = chance.integers(0, 4, (2 * 3, 3 * 3))  # 2 x 3 patches of 3 x 3 pixels
    maps = chance.random((2, 2, 3))
    own = SuperpixelSettings(high=0.5, share=0.2, share_of=share_of)
    areas = np.zeros((4, 6))
    wanted = np.zeros((2, 4), bool)
    for (y, x), region in np.ndenumerate(regions):
        areas[region, y // 3 * 3 + x // 3] += 1
    for k, one in enumerate(maps):
        full = one.repeat(3, axis=0).repeat(3, axis=1)
        for region in range(4):
            inside = full[regions == region]
            whole = inside.sum() if share_of == "region" else full.sum()
            high = inside[inside > 0.5 * one.max()].sum()
            wanted[k, region] = whole > 0 and high / whole > 0.2
    assert (kept_regions(maps.reshape(2, 6), areas, own) == wanted).all()


def test_what_is_just_at_a_threshold_is_not_beyond_it():
    own = SuperpixelSettings(high=0.5, share=0)
    kept = kept_regions(np.array([[1, 0.5, 0]]), np.eye(3), own)
    assert kept.tolist() == [[True, False, False]]


def test_a_patch_counts_from_half_of_its_pixels_on():
    maps = torch.zeros(1, *GRID)
    maps[0, 0, 0] = 1
    areas = np.zeros((2, N))
    areas[0, :3] = PATCH**2, PATCH**2 / 2, PATCH**2 / 2 - 1
    areas[1] = PATCH**2 - areas[0]
    mask = superpixel_masks(context(maps, areas=areas), SuperpixelSettings())
    assert mask.ravel().tolist() == [1, 1] + [0] * (N - 2)
    whole = superpixel_masks(context(maps, areas=areas), SuperpixelSettings(covered=1))
    assert whole.ravel().tolist() == [1] + [0] * (N - 1)


def test_an_empty_mask_falls_back_to_the_boxes_and_says_so(caplog):
    maps = torch.zeros(2, *GRID)
    maps[0, 0, 0] = 1
    maps[1, 1:, 1:] = 1
    own = CaaSettings(
        mask="superpixels", superpixels=SuperpixelSettings(share=0.5, share_of="map", high=0.9)
    )
    areas = np.zeros((N, N))
    np.fill_diagonal(areas, PATCH**2)  # each patch is a region: the second map has 6 equal ones
    with caplog.at_level(logging.WARNING):
        masks = masks_of(context(maps, areas=areas), own)
    assert (masks == box_masks(maps, 0.4, "full")).all()
    assert [record.getMessage() for record in caplog.records] == [
        "x: superpixels: no region of class 1 is kept; boxes"
    ]
    caplog.clear()
    masks_of(replace(context(maps, areas=areas), id=""), own)  # one of a training
    assert not caplog.records


def halves():
    """Two colours side by side, with texture so that neither is quite even."""
    image = np.zeros((GRID[0] * PATCH, GRID[1] * PATCH, 3), np.uint8)
    image[:, : 2 * PATCH], image[:, 2 * PATCH :] = (200, 40, 40), (40, 40, 200)
    return image + np.random.default_rng(0).integers(0, 20, image.shape).astype(np.uint8)


@pytest.mark.parametrize("colours", ["lab", "rgb"])
@pytest.mark.parametrize("clusters", [0, 2])
def test_an_image_of_two_colours_gives_the_half_that_is_hot(clusters, colours):
    pytest.importorskip("skimage")
    maps = torch.zeros(1, *GRID)
    maps[0, :, :2], maps[0, :, 2] = 0.8, 0.2  # a leak beyond the edge
    maps[0, 1, 1] = 1
    masks = superpixel_masks(
        context(maps, image=halves()),
        SuperpixelSettings(
            segments=8,
            clusters=clusters,
            colours=colours,
            compactness=10.0 if colours == "lab" else 0.1,
        ),
    )
    assert masks.dtype == np.uint8
    assert masks[0].tolist() == [[1, 1, 0, 0]] * 3


def test_a_hot_quadrant_is_that_quadrant():
    pytest.importorskip("skimage")
    image = np.zeros((32, 32, 3), np.uint8)
    image[:16, :16], image[:16, 16:], image[16:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    maps = torch.full((1, 4, 4), 0.1)
    maps[0, :2, 2:] = torch.tensor([[1.0, 0.7], [0.6, 0.5]])
    wanted = np.zeros((4, 4), int)
    wanted[:2, 2:] = 1
    for clusters in (0, 4):
        own = SuperpixelSettings(segments=16, clusters=clusters)
        masks = superpixel_masks(context(maps, image=image, grid=(4, 4)), own)
        assert (masks[0] == wanted).all()


def test_regions_of_one_colour_are_joined():
    regions = np.arange(6).repeat([1, 2, 3, 4, 5, 6]).reshape(3, 7)
    colours = np.array([100, 50, 0, 100, 50, 0.0])[regions]
    image = np.stack([colours, -colours, 0 * colours], axis=2)
    assert (joined(image, regions, 3) == colours / 50).all(), "numbered by their lightness"
    one = np.zeros_like(regions)
    assert (joined(image, one, 4) == 0).all(), "an image that SLIC did not divide"
    assert (joined(image, regions, 1) == 0).all()
    assert joined(image, regions, 99).max() <= 5, "no more clusters than regions"
    places = np.arange(8)[None]  # far apart by their parity, but halves by lightness are at rest
    image = np.stack([places, places % 2 * 100, 0 * places], axis=2).astype(float)
    assert joined(image, places, 2).tolist() == [[0] * 4 + [1] * 4], "nothing is left to chance"


def test_slic_sees_the_image_and_the_pixels_of_its_regions_are_counted(monkeypatch):
    pytest.importorskip("skimage")
    regions, seen = np.random.default_rng(0).integers(0, 5, (GRID[0] * PATCH, GRID[1] * PATCH)), []

    def slic(image, **said):
        seen.append((image, said))
        return regions

    monkeypatch.setattr("skimage.segmentation.slic", slic)
    ours = context(torch.zeros(1, *GRID), image=halves())
    superpixel_masks(ours, SuperpixelSettings(segments=7, compactness=3.0))
    areas = np.zeros((5, N))
    for (y, x), region in np.ndenumerate(regions):
        areas[region, y // PATCH * GRID[1] + x // PATCH] += 1
    made = ours.looked._made["of a method", "", ("superpixels", 7, 3.0, 0, "lab")]
    np.testing.assert_array_equal(made, areas)
    ((image, said),) = seen
    np.testing.assert_allclose(image, halves() / 255, atol=1e-6)
    assert said == {"n_segments": 7, "compactness": 3.0, "start_label": 0, "convert2lab": True}


# ---- affinities ------------------------------------------------------------------------------


def directions(group):
    """One of two orthogonal directions a patch."""
    return torch.eye(2)[group]


def test_orthogonal_features_do_not_mix():
    group = torch.tensor([0, 0, 1, 1] * 3)
    maps = random(1, *GRID)
    own = CosineSettings(mask="none", tau=0.01, power=1)
    found = cosine(context(maps, FakeTower(directions(group))), own).flatten()
    wanted = torch.stack([maps.flatten()[group == one].double().mean() for one in (0, 1)])[group]
    torch.testing.assert_close(found, wanted)


def test_the_likeness_of_a_tower_with_other_patches_is_resized():
    maps, coarse = random(2, *GRID), FakeTower(torch.eye(4), n=4)
    own = CosineSettings(mask="none", tau=1.0, tower="dino")
    likeness = fitted(torch.eye(4).double().softmax(dim=1), (2, 2), GRID)
    wanted = propagate(maps, likeness, np.ones((2, *GRID)), 3, 2)
    found = cosine(context(maps, dino=looked(coarse, (2, 2))), own)
    torch.testing.assert_close(found, wanted)


def test_orthogonal_distributions_do_not_mix():
    group = torch.tensor([0, 1, 1, 0] * 3)
    tower = FakeTower(directions(group))
    tower.logit_scale = 1e4  # p is one-hot
    tower.maps["qk"] = torch.full((LAYERS, N, N), 1 / N)
    ours = context(random(1, *GRID), tower, texts=(torch.eye(2)[:1], torch.eye(2)[1:]))
    found = cda(ours, CdaSettings(tau=0.01, power=1)).flatten()
    flat = ours.maps.flatten().double()
    wanted = torch.stack([flat[group == one].mean() for one in (0, 1)])[group]
    torch.testing.assert_close(found, wanted)


def test_one_distribution_leaves_caa():
    """Where all patches are alike to the texts, elements of the product are attention's."""
    maps, tower = random(2, *GRID), FakeTower(torch.tensor([[0.6, 0.8]]).expand(N, 2))
    ours = context(maps, tower, texts=(torch.eye(2)[:1], torch.eye(2)[1:]))
    for scores in ("logits", "min-max"):
        found = cda(ours, CdaSettings(scores=scores))
        torch.testing.assert_close(found, caa(ours, CaaSettings(mask="none")))
    tiny = cda(ours, CdaSettings(product="matrix"))  # even likeness: the mean of all rows
    assert float(tiny.flatten(1).std(dim=1).max()) < float(found.flatten(1).std(dim=1).max())


def test_divergence_equals_its_slow_twin():
    p = random(5, 4).softmax(dim=1).double()
    p[0] = torch.tensor([1.0, 0, 0, 0])
    p[1] = torch.tensor([0.0, 1, 0, 0])
    wanted = torch.zeros(5, 5).double()
    for i in range(5):
        for j in range(5):
            middle = (p[i] + p[j]) / 2
            for one in (p[i], p[j]):
                own = one > 0
                wanted[i, j] += (one[own] * (one[own] / middle[own]).log()).sum() / 2
    found = divergence(p)
    torch.testing.assert_close(found, wanted)
    assert float(found[0, 1]) == pytest.approx(np.log(2))


def test_scores_within_each_text_go_from_0_to_1():
    features = torch.nn.functional.normalize(random(N, 3), dim=1)
    ours = context(
        random(1, *GRID), FakeTower(features), texts=(torch.eye(3)[:1], torch.eye(3)[1:])
    )
    logs = distributions(ours, CdaSettings(scores="min-max")).log()
    scaled = features.double() - features.double().min(dim=0).values
    scaled = scaled / scaled.max(dim=0).values
    torch.testing.assert_close(logs, scaled.log_softmax(dim=1))
    wanted = (10 * features.double()).softmax(dim=1)
    torch.testing.assert_close(distributions(ours, CdaSettings()), wanted)


def test_the_spectral_inverse_of_two_patches_by_hand():
    """W = [[a, b], [b, a]]: a map (1, 0) becomes (a, b), and (D - W) adds b (a - b) (1, -1)."""
    tower = FakeTower(n=2)
    tower.maps["qk"] = torch.tensor([[0.7, 0.3], [0.3, 0.7]]).expand(LAYERS, 2, 2).clone()
    ours = context(torch.tensor([[[1.0, 0]]]), tower, grid=(1, 2))
    own = SpectralSettings(mask="none", power=1, inverse=0.5)
    found = spectral(ours, own).flatten()
    step = 0.5 * 0.3 * (0.7 - 0.3)
    torch.testing.assert_close(found, torch.tensor([0.7 + step, 0.3 - step], dtype=torch.float64))


def test_the_inverse_leaves_an_even_map_and_zero_of_it_is_caa():
    maps, tower = random(2, *GRID), FakeTower()
    ours = context(maps, tower)
    assert torch.equal(spectral(ours, SpectralSettings(inverse=0)), caa(ours, CaaSettings()))
    tower.maps["qk"] = torch.full((LAYERS, N, N), 2 / N)  # makes every map even, and doubles it
    own = {"sinkhorn": 0, "mask": "none"}
    ours = context(maps, tower)
    torch.testing.assert_close(
        spectral(ours, SpectralSettings(inverse=9, **own)), caa(ours, CaaSettings(**own))
    )


@pytest.mark.parametrize(
    ("method", "own"),
    [
        (caa, CaaSettings(mask="none", attention="vv")),
        (caa, CaaSettings(mask="superpixels")),
        (cda, CdaSettings()),
        (cda, CdaSettings(product="matrix", scores="min-max")),
        (cosine, CosineSettings(mask="none")),
        (spectral, SpectralSettings(mask="none")),
    ],
)
def test_permuted_patches_give_permuted_maps(method, own):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    features = torch.nn.functional.normalize(random(N, 5) - 0.5, dim=1)
    texts = (random(2, 5, seed=1), random(3, 5, seed=2))
    areas = np.random.default_rng(0).multinomial(PATCH**2, [1 / 4] * 4, size=N).T.astype(float)
    maps, tower = random(2, *GRID), FakeTower(features)
    found = method(context(maps, tower, areas=areas, texts=texts), own).flatten(1)
    permuted = FakeTower(features[order])
    permuted.maps = {k: one[:, order][:, :, order] for k, one in tower.maps.items()}
    maps = maps.flatten(1)[:, order].reshape(maps.shape)
    again = context(maps, permuted, areas=areas[:, order.numpy()], texts=texts)
    torch.testing.assert_close(method(again, own).flatten(1), found[:, order])
