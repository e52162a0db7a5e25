"""timm's plain ViT as a tower: timm's own modules are the slow twin; its attention for a CLIP."""

import numpy as np
import pytest
import timm
import torch
from clip_cases import OneImage, make_openai_state_dict, random_clip, small_config
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from clip_wsss.affinities.attention import propagate
from clip_wsss.affinities.box_rule import box_masks
from clip_wsss.cams.context import fitted, look
from clip_wsss.cams.passes import CamVariant, compute_pass
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import min_max
from clip_wsss.models.opening import open_tower
from clip_wsss.models.timm_tower import TimmTower, load_timm

NAME = "vit_tiny_patch16_224"
LIKE_SIGLIP = {"class_token": False, "global_pool": "map"}
LIKE_EVA02 = {
    "kind": Eva,
    "qkv_fused": False,
    "swiglu_mlp": True,
    "scale_mlp": True,
    "scale_attn_inner": True,
    "use_rot_pos_emb": True,
    "ref_feat_shape": 16,
    "global_pool": "token",
}
LIKE_DINOV3 = {
    "kind": Eva,
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_rotate_half": True,
    "num_reg_tokens": 4,
    "init_values": 0.3,
}
LIKE_SAPIENS2 = LIKE_DINOV3 | {  # its middle blocks share keys and values among heads
    "attn_type": "rope",
    "qkv_fused": False,
    "qk_norm": True,
    "num_kv_heads": (3, 1, 1),
    "attn_only_layer_scale": True,
}
LIKE_PE = {"kind": Eva, "attn_type": "rope", "use_rot_pos_emb": True, "global_pool": "map"}
LIKE_DINO = {"reg_tokens": 4, "init_values": 0.5, "no_embed_class": True}


def network(kind=VisionTransformer, **options):
    """Random, with attention that differs from patch to patch; timm computes maps by itself."""
    shape = {"img_size": (56, 70), "patch_size": 14, "embed_dim": 48, "depth": 3, "num_heads": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = kind(**shape, num_classes=0, dynamic_img_size=True, **options).eval()
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    made.pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    for block in made.blocks:
        block.attn.fused_attn = False
    return made.requires_grad_(False)


def timms_own(network, batch):
    """What enters each block, and the head-averaged map of each: what enters its dropout."""
    entered, maps, hooks = [], [], []
    for block in network.blocks:
        hooks.append(block.register_forward_pre_hook(lambda _, args: entered.append(args[0])))
        drop = block.attn.attn_drop
        hooks.append(drop.register_forward_pre_hook(lambda _, args: maps.append(args[0])))
    network(batch)
    for hook in hooks:
        hook.remove()
    return entered, [one.mean(dim=1) for one in maps]


def test_rotary_positions_by_a_table():
    """EVA02's: pairs of channels turned by row, then by column, of positions scaled to 16."""
    own = network(**LIKE_EVA02)
    grid, d, block = (3, 2), 16, own.blocks[-1]
    x = torch.randn(1, 1 + 6, 48, generator=torch.manual_seed(2))
    a = block.norm1(x)[0]
    attn = block.attn
    q, k = (part(a).reshape(7, 3, d) for part in (attn.q_proj, attn.k_proj))

    def turned(rows):
        out = rows.clone()
        for patch in range(6):
            for axis, place in enumerate((patch // 2 / 3 * 16, patch % 2 / 2 * 16)):
                for pair in range(d // 4):
                    angle = place * 10000 ** (-pair / (d // 4))
                    c = axis * d // 2 + 2 * pair
                    one, two = rows[1 + patch, :, c], rows[1 + patch, :, c + 1]
                    out[1 + patch, :, c] = one * np.cos(angle) - two * np.sin(angle)
                    out[1 + patch, :, c + 1] = two * np.cos(angle) + one * np.sin(angle)
        return out

    scores = torch.einsum("ihd,jhd->hij", turned(q), turned(k)) / d**0.5
    wanted = scores.softmax(dim=-1).mean(dim=0)[1:, 1:]
    found = TimmTower(own).attention(-1, x, "qk", grid)[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    other = TimmTower(own).attention(-1, x, "qk", (2, 3))[0]
    assert (other - wanted).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, 1),
        (LIKE_DINO, 5),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, 0),
        ({"qk_norm": True, "scale_attn_norm": True, "pre_norm": True}, 1),
        ({"block_fn": ResPostBlock, "init_values": 0.5}, 1),
        (LIKE_SIGLIP, 0),
        (LIKE_EVA02, 1),
        (LIKE_EVA02 | {"use_post_norm": True}, 1),
        (LIKE_DINOV3, 5),
        (LIKE_SAPIENS2, 5),
        (LIKE_PE, 1),
        (LIKE_PE | {"rope_type": "mixed", "num_reg_tokens": 2}, 3),
    ],
)
@pytest.mark.parametrize("grid", [(4, 5), (3, 7), (1, 2)])
def test_the_tower_is_timms_network(options, prefix, grid):
    own, tower = network(**options), TimmTower(network(**options))
    assert (tower.prefix, tower.patch, tower.layers, tower.heads) == (prefix, (14, 14), 3, 3)
    batch = torch.randn(2, 3, 14 * grid[0], 14 * grid[1], generator=torch.manual_seed(1))
    assert tower.grid(tuple(batch.shape[2:])) == grid
    streams, maps = tower.passed(batch, held=2, by_head=8)
    tokens = own.forward_features(batch)
    N = grid[0] * grid[1]
    assert len(streams) == 3
    assert maps.shape == (2, 2, N, N)
    entered, wanted = timms_own(own, batch)
    for index in range(3):
        torch.testing.assert_close(streams[index], entered[index], atol=1e-5, rtol=1e-5)
        ours = tower.attention(index - 3, streams[index], "qk", grid)
        torch.testing.assert_close(ours, wanted[index][:, prefix:, prefix:])
        assert wanted[index].shape[1] == prefix + N
    torch.testing.assert_close(maps[:, 0], tower.attention(-2, streams[1], "qk", grid))
    features = torch.nn.functional.normalize(tokens[:, prefix:], dim=-1)
    torch.testing.assert_close(tower.patches(streams[-1], grid), features)


def test_other_kinds_of_attention_by_hand():
    own = network(**LIKE_DINO)
    tower, x = TimmTower(own), torch.randn(1, 5 + 6, 48, generator=torch.manual_seed(2))
    block = own.blocks[1]
    parts = block.attn.qkv(block.norm1(x)[0]).reshape(11, 3, 3, 16)  # (L, qkv, heads, d)
    for place, kind in enumerate(("qq", "kk", "vv")):
        one = parts[:, place]
        scores = torch.einsum("ihd,jhd->hij", one, one) / 16**0.5
        wanted = scores.softmax(dim=-1).mean(dim=0)[5:, 5:]
        torch.testing.assert_close(tower.attention(-2, x, kind)[0], wanted)


def test_images_become_whole_patches():
    tower = TimmTower(network())
    rgb = np.full((30, 15, 3), 51, np.uint8)
    pixels = tower.preprocess(rgb)
    assert tower.grid(rgb.shape[:2]) == (3, 2)
    assert pixels.shape == (3, 42, 28)
    wanted = (np.full(3, 0.2) - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]
    np.testing.assert_allclose(pixels[:, 7, 9], wanted, rtol=1e-5)
    assert tower.preprocess(rgb, 2.0).shape == (3, 70, 42)


# ---- files -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "tiny.safetensors"
    save_file(timm.create_model(NAME).state_dict(), path)  # with its classifier
    return path


def entry(weights, name=NAME):
    return {"library": "timm", "architecture": name, "weights": str(weights)}


def test_weights_from_a_file(weights):
    tower = open_tower(entry(weights))
    assert isinstance(tower, TimmTower)
    assert (tower.patch, tower.layers, tower.width) == ((16, 16), 12, 192)
    assert not any(parameter.requires_grad for parameter in tower.network.parameters())
    batch = torch.randn(1, 3, 32, 48)
    (one,) = look(tower, batch, 8)
    assert one.grid == (2, 3)
    assert one.held.shape == (8, 6, 6)
    assert one.attention(-1).sum(dim=1).max() <= 1 + 1e-5, "the rest goes to CLS"


@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "vit_small_patch16_18x2_224",
        "vit_dwee_patch16_reg1_gap_256",
        "vit_relpos_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "resnet18",
    ],
)
def test_other_networks_are_refused_by_name(weights, name):
    with pytest.raises(InputError, match=f"^models: architecture {name}[: ]") as error:
        load_timm(entry(weights, name))
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(weights, tmp_path):
    state = timm.create_model(NAME).state_dict()
    cases = {
        "lacks cls_token": {key: one for key, one in state.items() if key != "cls_token"},
        r"pos_embed is \(1, 50, 192\), the": state | {"pos_embed": torch.zeros(1, 50, 192)},
        "not finite": state | {"norm.bias": torch.full((192,), torch.nan)},
        "cls_token is int8 where": state | {"cls_token": state["cls_token"].to(torch.int8)},
    }
    for number, (message, content) in enumerate(cases.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file(content, path)
        with pytest.raises(InputError, match=message):
            load_timm(entry(path))
    with pytest.raises(InputError, match="no such file; name a file, or `pretrained`"):
        load_timm(entry(tmp_path / "none"))
    with pytest.raises(InputError, match="timm has no network of this name"):
        load_timm(entry(weights, "vit_none"))


# ---- as the attention of a CLIP ----------------------------------------------------------------


def attention(grid, seed=0):
    """(N, N) float64 with positive rows that sum to different numbers below 1."""
    N = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(N, N, generator=generator, dtype=torch.float64) ** 3
    return rows / rows.sum(dim=1, keepdim=True) * torch.linspace(0.5, 1, N)[:, None].double()


GRIDS = [((2, 3), (5, 7)), ((7, 5), (2, 3)), ((4, 4), (1, 9)), ((1, 1), (3, 3)), ((6, 4), (6, 4))]


@pytest.mark.parametrize(("grid", "wanted"), GRIDS)
def test_a_fitted_map_keeps_what_is_constant(grid, wanted):
    N, M = grid[0] * grid[1], wanted[0] * wanted[1]
    even = torch.full((N, N), 1 / N, dtype=torch.float64)
    torch.testing.assert_close(fitted(even, grid, wanted), torch.full((M, M), 1 / M).double())
    own = attention(grid)
    own /= own.sum(dim=1, keepdim=True)
    found = fitted(own, grid, wanted)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(M).double())
    assert (found >= 0).all()
    sums = fitted(attention(grid), grid, wanted).sum(dim=1)
    assert sums.min() >= 0.5 - 1e-9
    assert sums.max() <= 1 + 1e-9


def test_a_map_of_the_same_grid_is_as_it_was():
    own = attention((3, 4))
    torch.testing.assert_close(fitted(own, (3, 4), (3, 4)), own, rtol=1e-12, atol=0)


def test_a_finer_query_looks_where_the_coarse_one_did():
    """Two halves that look at themselves: on any grid the left looks left, the right right."""
    own = torch.eye(2, dtype=torch.float64)
    found = fitted(own, (1, 2), (1, 8)).reshape(8, 8)
    left = (1 + 1 + 0.875 + 0.625) / 4  # linear between the two centres
    assert (float(found[0, :4].sum()), float(found[7, 4:].sum())) == (left, left)
    torch.testing.assert_close(found, found.flip(0, 1))
    assert fitted(torch.eye(8, dtype=torch.float64), (1, 8), (1, 2)).argmax(dim=1).tolist() == [
        0,
        1,
    ]


def test_caa_along_another_towers_attention(tmp_path):
    config = small_config()
    clip = random_clip(tmp_path, config, make_openai_state_dict(config, 1))
    tower = TimmTower(network(**LIKE_DINO))
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (22, 37, 3), generator=generator, dtype=torch.uint8).numpy()
    texts = {"own": (torch.randn(2, 24, generator=generator), torch.randn(3, 24))}
    caa = {"method": "caa", "layers": 2, "threshold": 0.3}
    gradcam = {"method": "gradcam", "target": "softmax"}
    cams = {"cam": CamVariant("own", gradcam, {"own": caa, "dino": {**caa, "tower": "dino"}})}
    made = compute_pass(OneImage(rgb), ["x"], clip, texts, cams, towers={"dino": tower})
    ((_, found),) = made
    assert clip.grid((22, 37)) == (6, 10)
    initial = torch.from_numpy(found["cam"].maps)
    (other,) = look(tower, tower.preprocess(rgb)[None], 8)
    assert other.grid == (2, 3)
    mean = (other.attention(-2).double() + other.attention(-1).double()) / 2
    fit = fitted(mean, (2, 3), (6, 10))
    wanted = min_max(propagate(initial, fit, box_masks(initial, 0.3, "full"), 3, 2)).float()
    np.testing.assert_allclose(found["dino"].maps, wanted, atol=1e-6)
    assert np.abs(found["dino"].maps - found["own"].maps).max() > 0.05
    with pytest.raises(InputError, match="tower dino: a setting marked Names"):
        list(compute_pass(OneImage(rgb), ["x"], clip, texts, cams))
