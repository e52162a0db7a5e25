"""CLIPs with a vision tower of timm: open_clip is the slow twin; scores, maps, texts of a file."""

import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_cases import OneImage
from safetensors.torch import save_file

from clip_wsss.cams.passes import CamVariant, compute_pass
from clip_wsss.core.errors import InputError
from clip_wsss.models.clip import load_clip, load_for
from clip_wsss.models.code import code_of
from clip_wsss.models.timm_clip import TimmClip

TOWERS = {  # one of each pool, and EVA02; as open_clip's configs name their parts
    "token": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None},
    "avg": {"timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": "linear"},
    "siglip": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
    "pe": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": None},
    "eva02": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None},
}
TEXT = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}


def config_of(name):
    size = 224 if name == "eva02" else 160
    vision = TOWERS[name] | {"image_size": size}
    return {"embed_dim": 96, "vision_cfg": vision, "text_cfg": dict(TEXT), "custom_text": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """open_clip's random network of a name, and the entry of `models` that holds it."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            config = config_of(name)
            (folder / "model.json").write_text(json.dumps(config))
            config.pop("custom_text")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = open_clip.CustomTextCLIP(**config).eval()
                for key, parameter in network.named_parameters():
                    if key.startswith("visual.trunk"):  # maps that differ from patch to patch
                        parameter.data += 0.05 * torch.randn_like(parameter)
            network.logit_scale.data.fill_(3.0)
            save_file(network.state_dict(), folder / "model.safetensors")
            weights = str(folder / "model.safetensors")
            known[name] = network, {"architecture": str(folder / "model.json"), "weights": weights}
        return known[name]

    return make


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TOWERS)
def test_features_are_open_clips_at_the_native_size(made, name):
    network, entry = made(name)
    clip = load_clip(entry)
    assert isinstance(clip, TimmClip)
    side = 224 if name == "eva02" else 160
    batch = noise(2, 3, side, side)
    with torch.no_grad():
        wanted = network.encode_image(batch, normalize=True)
    torch.testing.assert_close(clip.cls_features(batch), wanted, atol=1e-5, rtol=1e-4)
    assert clip.embedding == wanted.shape[1] == 96
    rgb = np.zeros((50, 40, 3), np.uint8)
    assert clip.preprocess_ordinary(rgb).shape == (3, side, side)
    assert clip.logit_scale == pytest.approx(np.exp(3))
    if name in ("siglip", "pe"):  # the score goes through the model's own pool
        torch.testing.assert_close(clip.patch_features(batch), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TOWERS)
def test_scores_and_patches_by_timms_own_parts(made, name):
    network, entry = made(name)
    clip, trunk, head = load_clip(entry), network.visual.trunk, network.visual.head
    side = 224 if name == "eva02" else 160
    batch = noise(1, 3, side, side, seed=1)
    with torch.no_grad():
        tokens = trunk.forward_features(batch)
        patches = tokens[:, trunk.num_prefix_tokens :]
        pool = trunk.attn_pool

        def end(one):
            return F.normalize(head(trunk.head(trunk.fc_norm(one))), dim=-1)

        mean = trunk.pool(tokens) if pool is not None else patches.mean(dim=1)
        each = torch.stack(
            [one if pool is None else pool(one[None, None])[0] for one in patches[0]]
        )
        torch.testing.assert_close(clip.patch_features(batch), end(mean), atol=1e-5, rtol=1e-4)
    streams, _ = clip.passed(batch, 0, 0)
    found = clip.patches(streams[-1], clip.grid(batch.shape[2:]))
    torch.testing.assert_close(found[0], end(each).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TOWERS)
def test_the_gradient_by_finite_differences(made, name):
    """Of the score at what enters the last block's attention, over all patches at once."""
    clip = load_clip(made(name)[1])
    grid, step = (2, 3), 1e-2
    batch = noise(1, 3, grid[0] * clip.patch[0], grid[1] * clip.patch[1])
    x = clip.passed(batch, 0, 0)[0][-1]
    passed, a = clip.through_last_block(x, True, grid), clip.normed(x)
    assert passed.inputs.shape == (1, clip.prefix + 6, clip.width)
    slope = noise(*passed.pooled.shape, seed=2)

    @torch.no_grad()
    def score(moved):
        return float((clip.pooled(clip.last_block(x, moved, grid).float()) * slope).sum())

    found = passed.weights(slope)[0]
    directions = F.normalize(noise(4, clip.width, seed=3), dim=1)
    for direction in (*directions, found / found.norm()):
        change = torch.zeros_like(a)
        change[:, clip.prefix :] = step * direction
        wanted = (score(a + change) - score(a - change)) / (2 * step)
        assert 6 * float(found @ direction) == pytest.approx(
            wanted, rel=0.02, abs=0.02 * 6 * float(found.norm())
        )


@pytest.mark.parametrize("name", TOWERS)
def test_cams_and_affinities_of_random_weights(made, name):
    """An image of any size; one pass gives what each row by itself does."""
    clip = load_clip(made(name)[1])
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (53, 90, 3), dtype=np.uint8)
    texts = {"own": (F.normalize(noise(2, 96), dim=1), F.normalize(noise(3, 96, seed=1), dim=1))}
    cams = {
        "gradcam": {"method": "gradcam", "target": "softmax", "flip": True, "scales": [1.0, 0.5]},
        "plain": {"method": "gradcam", "target": "softmax"},
        **{one: {"method": one} for one in ("maskclip", "clearclip", "sclip", "naclip")},
    }
    caa = {"method": "caa", "layers": 3}
    wanted = {key: CamVariant("own", own, {f"{key}-caa": caa}) for key, own in cams.items()}
    ((_, found),) = compute_pass(OneImage(rgb), ["x"], clip, texts, wanted)
    assert len(found) == 12
    for key, image in found.items():
        assert image.maps.shape == (2, *clip.grid((53, 90))), key
        assert np.isfinite(image.maps).all()
        assert image.maps.min() >= 0
        assert image.maps.max() == pytest.approx(1, abs=1e-2), key
    ((_, alone),) = compute_pass(OneImage(rgb), ["x"], clip, texts, {"plain": wanted["plain"]})
    assert np.array_equal(alone["plain-caa"].maps, found["plain-caa"].maps)


@pytest.mark.parametrize("name", ["avg", "siglip", "eva02"])
def test_bfloat16_resembles_float32(made, name):
    entry = made(name)[1]
    exact = load_clip(entry)
    cam = {"precision": "bfloat16", "position_embedding": {"resize": "bilinear", "round": "none"}}
    coarse = load_for(cam, entry)
    assert coarse.dtype == torch.bfloat16
    batch = noise(1, 3, 4 * exact.patch[0], 5 * exact.patch[1])
    assert coarse.passed(batch, 2, 8)[0][-1].dtype == torch.bfloat16
    ours, theirs = (clip.patch_features(batch) for clip in (coarse, exact))
    assert float((ours * theirs).sum()) > 0.99


def test_statistics_are_timms_unless_they_are_stated(made, tmp_path):
    entry = made("siglip")[1]
    np.testing.assert_allclose(load_clip(entry).mean, 0.5)
    np.testing.assert_allclose(load_clip(made("eva02")[1]).mean, [0.481, 0.458, 0.408], atol=1e-3)
    config = {"model_cfg": config_of("siglip"), "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "own.json").write_text(json.dumps(config))
    stated = load_clip(entry | {"architecture": str(tmp_path / "own.json")})
    np.testing.assert_allclose(stated.mean, [0.1, 0.2, 0.3], rtol=1e-6)


def test_whose_code_counts():
    def of(architecture, library="open_clip"):
        made = code_of({"library": library, "architecture": architecture})
        return made == ("clip_wsss.models.timm_clip:TimmClip",)

    assert of("EVA02-B-16")
    assert of("ViT-B-16-SigLIP")
    assert not of("ViT-B-16-quickgelu")
    assert not of(None)
    assert not of("vit_small_patch16_224.dino", "timm")
    timm = code_of({"library": "timm", "architecture": "vit_small_patch16_224.dino"})
    assert timm == ("clip_wsss.models.timm_tower:load_timm",)
    assert code_of({"library": "jina"}) == ("clip_wsss.models.jina:load_jina",)
    assert code_of({"library": "open_clip", "architecture": "RN50"}) == ()


def refused(entry, match, **options):
    with pytest.raises(InputError, match=match) as error:
        load_clip(entry, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["vit_base", "hf-hub:a/b", "../x"])
def test_a_model_that_timm_lacks_is_one_line(made, tmp_path, name):
    # FAULTS 31
    config = config_of("token")
    config["vision_cfg"]["timm_model_name"] = name
    (tmp_path / "other.json").write_text(json.dumps(config))
    entry = made("token")[1] | {"architecture": str(tmp_path / "other.json")}
    refused(entry, "unknown model of timm")


def test_what_cannot_be_is_refused_in_one_line(made, tmp_path):
    entry = made("token")[1]
    rounded = {"resize": "bilinear", "round": "float16"}
    refused(entry, "must be left out; timm resizes", position_embedding=rounded)
    config = config_of("token")
    config["vision_cfg"]["timm_model_name"] = "deit_tiny_distilled_patch16_224"
    path = tmp_path / "distilled.json"
    path.write_text(json.dumps(config))
    refused(entry | {"architecture": str(path)}, "it has a VisionTransformerDistilled")
    other = made("avg")[1]["architecture"]
    refused(entry | {"architecture": other}, "does not fit the architecture")


# ---- texts of a file ---------------------------------------------------------------------------


def sentences(path, width=96, texts=("a cat", "a dog"), **other):
    arrays = {"texts": np.array(texts), "features": noise(len(texts), width).numpy()} | other
    np.savez(path, **arrays)
    return {"text_features": str(path)}


@pytest.mark.parametrize("tokenizer", [{}, {"hf_tokenizer_name": "nobody/has-this"}], ids=str)
def test_a_tokenizer_that_is_not_here_is_named_when_a_text_comes(made, tmp_path, tokenizer):
    entry = made("siglip")[1]
    config = config_of("siglip")
    config["text_cfg"] |= tokenizer
    (tmp_path / "own.json").write_text(json.dumps(config))
    own = entry | {"architecture": str(tmp_path / "own.json")}
    clip = load_clip(own)
    assert clip.patch_features(noise(1, 3, 32, 48)).shape == (1, 96)
    if tokenizer:
        with pytest.raises(InputError, match=r"tokenizer cannot be made .* `text_features`"):
            clip.encode_texts([["a cat"]])
    by_file = load_clip(own | sentences(tmp_path / "a.npz"))
    rows = F.normalize(noise(2, 96), dim=1)
    found = by_file.encode_texts([["a dog"], ["a cat", "a dog"]])
    torch.testing.assert_close(found[0], rows[1])
    torch.testing.assert_close(found[1], F.normalize(rows.mean(dim=0), dim=0))
    batch = noise(1, 3, 32, 48)
    assert torch.equal(by_file.patch_features(batch), clip.patch_features(batch))
    assert by_file.logit_scale == clip.logit_scale


def test_a_missing_sentence_is_named(made, tmp_path):
    clip = load_clip(made("token")[1] | sentences(tmp_path / "a.npz"))
    with pytest.raises(InputError, match=r"a\.npz: lacks the sentence 'a cow' \(and 1 more\)"):
        clip.encode_texts([["a cow"], ["a dog", "a sheep"]])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 95}, r"features of 2 texts are \(2, 95\), must be \(2, 96\)"),
        ({"features": np.full((2, 96), np.nan)}, "NaN, infinity or a zero row"),
        ({"features": np.zeros((2, 96))}, "NaN, infinity or a zero row"),
        ({"texts": np.array(["a cat", "a cat"])}, "holds a sentence more than once; keep one"),
        ({"texts": np.arange(2)}, r"must hold texts \(n,\) and features"),
    ],
    ids=str,
)
def test_a_file_of_sentences_that_cannot_be(made, tmp_path, change, match):
    refused(made("token")[1] | sentences(tmp_path / "a.npz", **change), match)
    refused(made("token")[1] | {"text_features": str(tmp_path / "no.npz")}, "there is no file")


def test_an_ordinary_clip_takes_a_file_too(tmp_path):
    from clip_cases import make_openai_state_dict, small_config, write_model

    config = small_config()
    files = write_model(tmp_path, config, make_openai_state_dict(config, 1))
    clip = load_clip(files | sentences(tmp_path / "a.npz", 24))
    torch.testing.assert_close(
        clip.encode_texts([["a cat"]])[0], F.normalize(noise(2, 24)[0], dim=0)
    )
    batch = noise(1, 3, 8, 12)
    assert torch.equal(clip.patch_features(batch), load_clip(files).patch_features(batch))
