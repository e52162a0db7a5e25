"""Maps without a backward pass against open_clip's own modules and by hand; several views."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_cases import OneImage, make_openai_state_dict, random_clip, random_context, small_config

from clip_wsss.cams.context import HELD, MapContext, initial, look
from clip_wsss.cams.naclip import neighbourhood
from clip_wsss.cams.passes import CamVariant, compute_pass
from clip_wsss.cams.patch_text import RebuiltSettings, patch_text_maps
from clip_wsss.core.methods import method

METHODS = ("maskclip", "clearclip", "sclip", "naclip")
GRID = (4, 6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    config = small_config()
    return random_clip(tmp_path_factory.mktemp("clip"), config, make_openai_state_dict(config, 1))


@pytest.fixture(scope="module")
def context(clip):
    """A photograph of 4 x 6 patches, two classes and three background words."""
    return random_context(clip, [1, 0], 2)


def maps_of(name, context, **settings):
    made = method("cam", name)
    return made.function(context, made.read(settings))


def attention(name, q, k, sigma=5.0):
    """Weights (L, L) of one head, written out."""
    L, d = q.shape
    if name == "maskclip":
        return torch.eye(L)
    if name == "clearclip":
        return (q @ q.T / d**0.5).softmax(dim=1)
    if name == "sclip":
        return (q @ q.T / d**0.5).softmax(dim=1) + (k @ k.T / d**0.5).softmax(dim=1)
    near = torch.zeros(L, L)  # naclip
    for i in range(L - 1):
        for j in range(L - 1):
            squared = (i // 6 - j // 6) ** 2 + (i % 6 - j % 6) ** 2
            near[1 + i, 1 + j] = np.exp(-squared / (2 * sigma**2))
    return (k @ k.T / d**0.5 + near).softmax(dim=1)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("ffn", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_equals_the_twin_of_open_clips_modules(clip, context, name, residual, ffn):
    visual, x = clip.visual, context.looked.streams[-1]
    block = visual.transformer.resblocks[-1]
    q, k, v = F.linear(block.ln_1(x)[0], block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
        3, dim=1
    )
    heads = zip(q.split(16, dim=1), k.split(16, dim=1), v.split(16, dim=1), strict=True)
    mixed = torch.cat([attention(name, q, k) @ v for q, k, v in heads], dim=1)
    y = block.attn.out_proj(mixed)
    y = x[0] + y if residual else y
    y = y + block.mlp(block.ln_2(y)) if ffn else y
    features = F.normalize(visual.ln_post(y) @ visual.proj, dim=1)[1:]
    logits = clip.logit_scale * features @ torch.cat([context.texts, context.background]).T
    wanted = logits.softmax(dim=1)[:, :2].T.reshape(2, *GRID)
    found = maps_of(name, context, residual=residual, ffn=ffn)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_blocks_own_attention_rebuilds_the_block(clip, context):
    """With residual and MLP it gives the patch features that open_clip gives."""
    x = context.looked.streams[-1]
    tokens = clip.visual.transformer.resblocks[-1](x)
    wanted = F.normalize((clip.visual.ln_post(tokens) @ clip.visual.proj)[:, 1:], dim=-1)
    attend = F.scaled_dot_product_attention
    torch.testing.assert_close(clip.rebuilt_patches(x, attend, True, True), wanted)
    assert torch.equal(clip.patches(x), clip.rebuilt_patches(x, attend, True, True))


@pytest.mark.parametrize("options", [{"ls_init_value": 0.3}, {"scale_attn_inner": True}], ids=str)
def test_scales_and_norms_of_the_branch_stay(tmp_path, options):
    config = small_config(**options)
    clip = random_clip(tmp_path, config, make_openai_state_dict(config, 2))
    x = torch.randn(1, 7, 32, generator=torch.manual_seed(0))
    block = clip.visual.transformer.resblocks[-1]
    y = block.ls_1(
        block.attention(block.ln_1(x)) if "ls_init_value" in options else _inner(block, x)
    )
    wanted = F.normalize((clip.visual.ln_post(y) @ clip.visual.proj)[:, 1:], dim=-1)
    attend = F.scaled_dot_product_attention
    torch.testing.assert_close(clip.rebuilt_patches(x, attend, False, False), wanted)


def _inner(block, x):
    return block.ln_attn(block.attn(block.ln_1(x)))


def test_defaults_are_the_papers():
    kept = {
        name: (own.residual, own.ffn) for name in METHODS for own in [method("cam", name).read({})]
    }
    neither = (False, False)
    assert kept == {
        "maskclip": neither,
        "clearclip": neither,
        "sclip": (True, True),
        "naclip": neither,
    }
    assert method("cam", "naclip").read({}).sigma == 5


@pytest.mark.parametrize("name", METHODS)
def test_permuted_patches_permute_the_maps(context, name):
    """NACLIP knows places: there the patches may only be mirrored."""
    places = torch.arange(24).reshape(GRID)
    shuffled = torch.randperm(24, generator=torch.manual_seed(3)).reshape(GRID)
    order = places.flip(1) if name == "naclip" else shuffled
    (x,) = (context.looked.streams[-1],)
    moved = torch.cat([x[:, :1], x[:, 1 + order.flatten()]], dim=1)
    looked = SimpleNamespace(tower=context.tower, grid=GRID, streams=[moved])
    found = maps_of(
        name, MapContext("x", context.image, [1, 0], context.texts, context.background, looked)
    )
    wanted = maps_of(name, context).flatten(1)[:, order.flatten()].reshape(2, *GRID)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_quadrant_that_is_its_text_is_hot():
    """Patches on the text of the class, on the other class, and on a background word."""
    texts = torch.eye(3)
    features = texts[2].repeat(4, 6, 1)
    features[:2, :3], features[2:, 3:] = texts[0], texts[1]
    tower = SimpleNamespace(
        logit_scale=100.0, rebuilt_patches=lambda *_: features.reshape(1, 24, 3)
    )
    looked = SimpleNamespace(tower=tower, grid=GRID, streams=[None])
    context = MapContext("x", np.zeros((16, 24, 3), np.uint8), [0, 1], texts[:2], texts[2:], looked)
    found = patch_text_maps(context, None, RebuiltSettings())
    wanted = torch.zeros(2, *GRID)
    wanted[0, :2, :3] = wanted[1, 2:, 3:] = 1
    torch.testing.assert_close(found, wanted)
    soft = patch_text_maps(context, None, RebuiltSettings(logit_scale=1.0))
    assert soft[0, 0, 0].item() == pytest.approx(np.e / (np.e + 2))


def test_the_neighbourhood_of_nine_patches_by_hand():
    found = neighbourhood((3, 3), 1.0)
    a, b, c, d, e = (np.exp(-squared / 2) for squared in (1, 2, 4, 5, 8))
    corner = [1, a, c, a, b, d, c, d, e]  # of the first patch, row by row
    middle = [b, a, b, a, 1, a, b, a, b]
    np.testing.assert_allclose(found[0], corner, rtol=1e-6)
    np.testing.assert_allclose(found[4], middle, rtol=1e-6)
    np.testing.assert_allclose(found, found.T)
    wide = neighbourhood((1, 3), 2.0)
    np.testing.assert_allclose(wide[0], [1, np.exp(-1 / 8), np.exp(-4 / 8)], rtol=1e-6)


# ---- several views -----------------------------------------------------------------------------


SETTINGS = {
    "gradcam": {"method": "gradcam", "target": "softmax"},
    **{name: {"method": name} for name in METHODS},
}


def computed(clip, context, variants, affinities=None):
    """Maps of the context's image by a whole pass."""
    texts = {"own": (context.texts.flip(0), context.background)}  # of keys 0 and 1
    cams = {name: CamVariant("own", own, affinities or {}) for name, own in variants.items()}
    ((_, found),) = compute_pass(OneImage(context.image), ["x"], clip, texts, cams)
    return {name: torch.from_numpy(own.maps) for name, own in found.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_views_are_averaged_by_hand(clip, context, name):
    views = {"scales": [1.0, 0.5, 2.0], "flip": True}
    found = computed(clip, context, {"own": SETTINGS[name] | views})["own"]
    total = torch.zeros(2, *GRID)
    for scale in (1.0, 0.5, 2.0):
        for flip in (False, True):
            view = context.view(scale, flip)
            maps = initial(maps_of(name, view, **SETTINGS[name]))
            maps = maps.flip(2) if flip else maps
            how = {"mode": "bilinear", "antialias": True}
            total += F.interpolate(maps[None], GRID, **how)[0]
    torch.testing.assert_close(found, initial(total / 6), atol=1e-5, rtol=0)
    alone = computed(clip, context, {"own": SETTINGS[name]})["own"]
    assert (found - alone).abs().max() > 0.01


def test_one_view_is_as_if_nothing_was_said(clip, context):
    said = {name: own | {"scales": [1.0], "flip": False} for name, own in SETTINGS.items()}
    plain, stated = computed(clip, context, SETTINGS), computed(clip, context, said)
    assert all(torch.equal(plain[name], stated[name]) for name in SETTINGS)


def test_a_flipped_average_of_a_symmetric_image_is_symmetric(clip, context):
    rgb = np.concatenate([context.image[:, :12], context.image[:, :12][:, ::-1]], axis=1)
    symmetric = MapContext("x", rgb, [1, 0], context.texts, context.background, context.looked)
    variants = {name: own | {"flip": True} for name, own in SETTINGS.items()}
    for maps in computed(clip, symmetric, variants).values():
        torch.testing.assert_close(maps, maps.flip(2), atol=2e-5, rtol=0)


def test_a_variant_of_views_has_the_same_bytes_in_any_company(clip, context):
    variants = {name: own | {"scales": [0.5, 1.0]} for name, own in SETTINGS.items()}
    together = computed(clip, context, variants | {"plain": SETTINGS["gradcam"]})
    refined = computed(clip, context, {"sclip": variants["sclip"]}, {"caa": {"method": "caa"}})
    for name in SETTINGS:
        alone = computed(clip, context, {name: variants[name]})[name]
        assert torch.equal(alone, together[name])
    assert torch.equal(refined["sclip"], together["sclip"])
    assert refined["caa"].shape == (2, *GRID)


def test_the_mean_of_the_last_blocks_has_the_very_last_one(clip, context):
    """Which a pass without GradCAM does not bring."""
    first, second = (look(clip, clip.preprocess(context.image)[None], HELD)[0] for _ in range(2))
    maps = torch.stack([second.attention(-2), second.attention(-1)])
    found = replace(context, looked=first).mean_attention(2)
    assert torch.equal(found, maps.mean(dim=0, dtype=torch.float64))


def test_a_view_attends_as_a_pass_of_its_own(clip, context):
    view = context.view(2.0, True)
    (own,) = look(clip, clip.preprocess(context.image, 2.0).flip(2)[None], HELD)
    assert view.grid == own.grid == (8, 12)
    for block in (-3, -2, -1):
        assert torch.equal(view.attention(block), own.attention(block))
