"""Jina CLIP's vision tower from its published layout; the slow twin is written from its facts."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clip_wsss.cams.passes import CamVariant, compute_pass
from clip_wsss.core.errors import InputError
from clip_wsss.models import jina
from clip_wsss.models.clip import load_clip, load_for
from clip_wsss.models.timm_clip import TimmClip

VISION = {
    "width": 48,
    "layers": 2,
    "head_width": 16,
    "mlp_ratio": 2.6667,
    "patch_size": 14,
    "image_size": 56,
    "rope_embeddings": True,
    "naive_swiglu": True,
    "subln": True,
}
V2 = {"intp_freq": True, "pt_hw_seq_len": 16}


def weights(seed=0):
    """Random weights under the published names."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape, size=0.3):
        return size * torch.randn(*shape, generator=generator)

    D, hidden = 48, int(48 * 2.6667)
    state = {
        "cls_token": noise(1, 1, D),
        "pos_embed": noise(1, 17, D),
        "patch_embed.proj.weight": noise(D, 3, 14, 14, size=0.05),
        "patch_embed.proj.bias": noise(D),
        "norm.weight": 1 + noise(D),
        "norm.bias": noise(D),
    }
    norms = {"norm1": D, "norm2": D, "attn.inner_attn_ln": D, "mlp.ffn_ln": hidden}
    shapes = {
        "attn.q_proj.weight": (D, D),
        "attn.k_proj.weight": (D, D),
        "attn.v_proj.weight": (D, D),
        "attn.q_bias": (D,),
        "attn.v_bias": (D,),
        "attn.proj.weight": (D, D),
        "attn.proj.bias": (D,),
        "mlp.w1.weight": (hidden, D),
        "mlp.w1.bias": (hidden,),
        "mlp.w2.weight": (hidden, D),
        "mlp.w2.bias": (hidden,),
        "mlp.w3.weight": (D, hidden),
        "mlp.w3.bias": (D,),
    }
    for block in range(2):
        for name, size in norms.items():
            state[f"blocks.{block}.{name}.weight"] = 1 + noise(size)
            state[f"blocks.{block}.{name}.bias"] = noise(size)
        state |= {f"blocks.{block}.{name}": noise(*shape) for name, shape in shapes.items()}
    return state


def files(folder, state, vision=None, change=None):
    """The published files, and the entry of `models`."""
    published = {f"vision_model.{key}": one for key, one in state.items()}
    published |= {"logit_scale": torch.tensor(2.0), "text_model.emb.weight": torch.zeros(3, 2)}
    save_file(published | (change or {}), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"vision_config": VISION | (vision or {})}))
    texts = np.array(["a cat", "a dog", "ground"])
    features = torch.randn(3, 48, generator=torch.Generator().manual_seed(5)).numpy()
    np.savez(folder / "texts.npz", texts=texts, features=features)
    return {
        "library": "jina",
        "architecture": str(folder / "config.json"),
        "weights": str(folder / "model.safetensors"),
        "text_features": str(folder / "texts.npz"),
    }


def norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def turned(x, side, grid=4):
    """Rotary positions of (heads, N, d): rows, then columns, from 0 to below `side`."""
    d = x.shape[-1]
    speeds = 10000 ** (-torch.arange(0, d // 2, 2) / (d // 2))  # (d / 4,)
    places = torch.arange(grid) / grid * side
    angles = torch.outer(places, speeds).repeat_interleave(2, dim=1)  # (grid, d / 2)
    rows = angles[:, None].expand(grid, grid, -1)
    columns = angles[None].expand(grid, grid, -1)
    angle = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # (N, d)
    one, two = x[..., 0::2], x[..., 1::2]
    return x * angle.cos() + torch.stack([-two, one], dim=-1).flatten(-2) * angle.sin()


def twin(state, image, side):
    """The feature of a 56 x 56 image, step by step: the normalised CLS token."""
    x = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 14)
    x = torch.cat([state["cls_token"][0], x[0].flatten(1).T]) + state["pos_embed"][0]  # (17, 48)
    for number in range(2):
        own = f"blocks.{number}."
        a = norm(state, f"{own}norm1", x)
        q = a @ state[f"{own}attn.q_proj.weight"].T + state[f"{own}attn.q_bias"]
        k = a @ state[f"{own}attn.k_proj.weight"].T
        v = a @ state[f"{own}attn.v_proj.weight"].T + state[f"{own}attn.v_bias"]
        q, k, v = (one.reshape(17, 3, 16).transpose(0, 1) for one in (q, k, v))
        q, k = (torch.cat([one[:, :1], turned(one[:, 1:], side)], dim=1) for one in (q, k))
        y = (q @ k.transpose(1, 2) / 4).softmax(dim=-1) @ v
        y = norm(state, f"{own}attn.inner_attn_ln", y.transpose(0, 1).flatten(1))
        x = x + y @ state[f"{own}attn.proj.weight"].T + state[f"{own}attn.proj.bias"]
        a = norm(state, f"{own}norm2", x)
        gate, value = (
            a @ state[f"{own}mlp.{w}.weight"].T + state[f"{own}mlp.{w}.bias"] for w in ("w1", "w2")
        )
        y = norm(state, f"{own}mlp.ffn_ln", F.silu(gate) * value)
        x = x + y @ state[f"{own}mlp.w3.weight"].T + state[f"{own}mlp.w3.bias"]
    return F.normalize(norm(state, "norm", x)[0], dim=0)


@pytest.fixture
def image():
    return torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("vision", "side"),
    [({}, 4), ({"intp_freq": False, "pt_hw_seq_len": 4}, 4), (V2, 16)],
    ids=["v1", "v1-stated", "v2"],
)
def test_features_equal_the_twin(tmp_path, image, vision, side):
    state = weights()
    clip = load_clip(files(tmp_path, state, vision))
    assert isinstance(clip, TimmClip)
    assert clip.embedding == 48
    assert clip.logit_scale == pytest.approx(np.exp(2))
    torch.testing.assert_close(
        clip.cls_features(image)[0], twin(state, image, side), atol=2e-5, rtol=1e-4
    )


def test_timms_own_positions_would_be_wrong_without_a_word(tmp_path, image, monkeypatch):
    """The trap: all keys match, and only the features tell."""
    state = weights()
    entry = files(tmp_path, state)
    build = jina.timm.create_model
    plain = {}

    def default(name, **options):
        plain.update(options)
        return build(name, **{k: v for k, v in options.items() if k != "ref_feat_shape"})

    monkeypatch.setattr(jina.timm, "create_model", default)
    found = load_clip(entry).cls_features(image)[0]
    assert plain["ref_feat_shape"] == (4, 4)
    assert float((found - twin(state, image, 4)).abs().max()) > 0.02
    torch.testing.assert_close(found, twin(state, image, 16), atol=2e-5, rtol=1e-4)


def test_maps_and_texts(tmp_path):
    clip = load_for(
        {"precision": "float32", "position_embedding": {"resize": "bilinear", "round": "none"}},
        files(tmp_path, weights()),
    )
    np.testing.assert_allclose(clip.mean, [0.481, 0.458, 0.408], atol=1e-3)
    texts = clip.encode_texts([["a cat"], ["a dog"]]), clip.encode_texts([["ground"]])
    with pytest.raises(InputError, match=r"texts\.npz: lacks the sentence 'a cow'"):
        clip.encode_texts([["a cow"]])
    rgb = np.random.default_rng(0).integers(0, 256, (40, 75, 3), dtype=np.uint8)

    class OneImage:
        def size(self, name):
            return rgb.shape[:2]

        def labels(self, name):
            return [0, 1]

        def image(self, name):
            return rgb

    cam = {"method": "gradcam", "target": "softmax"}
    wanted = {"cam": CamVariant("own", cam, {"caa": {"method": "caa", "layers": 2}})}
    ((_, found),) = compute_pass(OneImage(), ["x"], clip, {"own": texts}, wanted)
    for one in found.values():
        assert one.maps.shape == (2, 3, 6)
        assert one.maps.max() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    ("vision", "change", "match"),
    [
        ({"rope_embeddings": False}, {}, "vision_config.rope_embeddings must be true; got False"),
        ({"layers": 3}, {}, r"does not fit .*config\.json: blocks\.2\..* is missing .*more"),
        ({"layers": 1}, {}, r"blocks\.1\..* has no place"),
        ({"image_size": 70}, {}, r"vision_model\.pos_embed must be \(1, 26, 48\), as"),
        ({"patch_size": 28}, {}, r"must be \(1, 5, 48\)"),
        ({}, {"vision_model.head.weight": torch.zeros(2, 48)}, "head.weight has no place"),
        ({}, {"vision_model.norm.bias": torch.full((48,), torch.nan)}, "holds NaN or infinity"),
    ],
    ids=str,
)
def test_every_key_is_matched_or_named(tmp_path, vision, change, match):
    entry = files(tmp_path, weights(), vision, change)
    with pytest.raises(InputError, match=match) as error:
        load_clip(entry)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"text_features": None}, r"needs architecture .* and text_features"),
        ({"architecture": None}, r"needs architecture .* and text_features"),
        ({"round_weights": "float16"}, "round_weights: must be left out"),
    ],
    ids=str,
)
def test_what_an_entry_needs(tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        load_clip(files(tmp_path, weights()) | change)


def test_other_files_are_refused(tmp_path):
    entry = files(tmp_path, weights())
    (tmp_path / "config.json").write_text('{"text_config": {}}')
    with pytest.raises(InputError, match=r"must be Jina CLIP's config\.json"):
        load_clip(entry)
    entry = files(tmp_path, weights())
    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"must hold vision_model\.\* and logit_scale"):
        load_clip(entry)
