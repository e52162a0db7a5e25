"""Weight files in every form, refusals, texts, and the vision tower piece by piece."""

import json
import logging

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_cases import (
    make_openai_state_dict,
    random_clip,
    small_config,
    write_jit_archive,
    write_model,
)
from gradcam_twin import Twin
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from clip_wsss.core.errors import InputError
from clip_wsss.models.clip import load_clip, load_for
from clip_wsss.models.timm_tower import load_timm

WORDS = ["cat", "dog", "a photo of a sheep."]


def texts_config(**other):
    """A config whose text tower takes real words."""
    config = small_config(**other)
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 16}
    return config


@pytest.fixture(scope="module")
def state():
    """OpenAI's own are float16; so every form below can hold these exactly."""
    return {n: t.half().float() for n, t in make_openai_state_dict(texts_config(), 3).items()}


@pytest.fixture
def files(tmp_path, state):
    return write_model(tmp_path, texts_config(), state)


def features(clip):
    rgb = np.random.default_rng(0).integers(0, 256, (13, 22, 3), dtype=np.uint8)
    return (
        clip.patch_features(clip.preprocess(rgb)[None]),
        clip.encode_texts([[word] for word in WORDS]),
        torch.tensor(clip.logit_scale),
    )


def assert_same(clip, other):
    for ours, theirs in zip(features(clip), features(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def compact(state, rows):
    return {
        **state,
        "token_embedding.weight": state["token_embedding.weight"][rows].clone(),
        "token_embedding.rows": rows,
    }


class TestForms:
    """The same numbers from every kind of file."""

    def test_inferred_architecture(self, tmp_path):
        config = texts_config(width=64, head_width=64)
        config["text_cfg"] |= {"width": 64, "heads": 1}
        files = write_model(tmp_path, config, make_openai_state_dict(config, 1))
        assert_same(
            load_clip(files), load_clip({"architecture": None, "weights": files["weights"]})
        )

    def test_jit_archive(self, files, state, tmp_path):
        write_jit_archive(tmp_path / "jit.pt", texts_config(), state)
        assert_same(load_clip(files), load_clip(files | {"weights": str(tmp_path / "jit.pt")}))

    def test_training_checkpoint(self, files, state, tmp_path):
        wrapped = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}
        torch.save(wrapped, tmp_path / "epoch_3.pt")
        assert_same(load_clip(files), load_clip(files | {"weights": str(tmp_path / "epoch_3.pt")}))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_safetensors(self, files, state, tmp_path, dtype):
        path = tmp_path / "model.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path)
        assert_same(load_clip(files), load_clip(files | {"weights": str(path)}))
        beside = load_clip({"architecture": None, "weights": str(path)})  # model.json
        assert_same(load_clip(files), beside)

    def test_compact_vocabulary(self, files, state, tmp_path):
        rows = open_clip.tokenize(WORDS).unique()
        rows = rows[rows != 0]  # padding needs no row
        path = tmp_path / "compact.safetensors"
        save_file(compact(state, rows), path)
        clip = load_clip(files | {"weights": str(path)})
        assert_same(load_clip(files), clip)
        with pytest.raises(InputError, match="lacks 'giraffe' of the text 'a photo of a giraffe"):
            clip.encode_texts([["a photo of a cat."], ["a photo of a giraffe"]])

    def test_pretrained_tag(self, files, monkeypatch):
        """A tag of open_clip's table, as it stands after the download."""
        known = {"openai": {"file": files["weights"], "quick_gelu": True}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-quickgelu", known)
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-quickgelu", texts_config())
        tagged = load_clip({"architecture": "small-quickgelu", "weights": "openai"})
        assert_same(load_clip(files), tagged)

    def test_open_clip_config_of_a_hub_folder(self, files, state, tmp_path):
        stated = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        config = {"model_cfg": texts_config(), "preprocess_cfg": stated}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        clip = load_clip(files | {"architecture": str(tmp_path / "open_clip_config.json")})
        white = clip.preprocess(np.full((4, 4, 3), 255, np.uint8))
        torch.testing.assert_close(white, torch.full((3, 4, 4), 2.0))


def refused(model, match, **options):
    with pytest.raises(InputError, match=match) as error:
        load_clip(model, **options)
    assert "\n" not in str(error.value)


class TestRefusals:
    """One line each, before anything is computed."""

    def test_wrong_shapes(self, files, tmp_path):
        other = tmp_path / "other.json"
        other.write_text(json.dumps(texts_config(width=48)))
        refused(
            files | {"architecture": str(other)},
            r"model\.pt: does not fit .*other\.json: visual.*is 32.* where 48.* wanted .*more",
        )

    def test_other_image_size(self, files, tmp_path):
        other = tmp_path / "other.json"
        other.write_text(json.dumps(texts_config(side=7)))
        refused(
            files | {"architecture": str(other)},
            "visual.positional_embedding is 26x32 where 50x32 is wanted$",
        )

    @pytest.mark.parametrize("change", ["missing", "extra"])
    def test_missing_and_left_over_tensors(self, tmp_path, state, change):
        state = dict(state)
        if change == "missing":
            del state["visual.ln_post.bias"]
            match = "visual.ln_post.bias is missing"
        else:
            state["visual.head"] = torch.zeros(3)
            match = "visual.head has no place"
        refused(write_model(tmp_path, texts_config(), state), match)

    def test_names_of_transformers(self, tmp_path, state):
        # FAULTS 30
        state = {"text_model.encoder.layers.0.mlp.fc1.bias": torch.zeros(3), **state}
        refused(
            write_model(tmp_path, texts_config(), state),
            "in the names of Hugging Face's transformers; get the weights in open_clip's",
        )

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_one_value_that_is_not_finite(self, tmp_path, state, value):
        """It would make every map zero, without a word."""
        state = {name: tensor.clone() for name, tensor in state.items()}
        state["visual.transformer.resblocks.0.mlp.c_fc.weight"][3, 4] = value
        files = write_model(tmp_path, texts_config(), state)
        refused(
            files, r"model\.pt: visual\.transformer\.resblocks\.0\.mlp\.c_fc\.weight holds NaN or"
        )

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            (lambda one: one * 0, r"visual\.proj is all zero; get the file again"),
            (lambda one: one.double() * 1e300, r"visual\.proj holds NaN or infinity; get"),
            (lambda one: (one * 9).to(torch.int8), r"proj is int8 where float32 is wanted; save"),
            (lambda one: one.to(torch.complex64), r"proj is complex64 where float32 is wanted"),
        ],
    )
    def test_a_matrix_of_which_every_map_would_be_zero(self, tmp_path, state, change, line):
        state = {**state, "visual.proj": change(state["visual.proj"])}
        refused(write_model(tmp_path, texts_config(), state), line)

    @pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.safetensors"])
    def test_an_empty_file(self, tmp_path, state, name):
        files = write_model(tmp_path, texts_config(), state)
        (tmp_path / name).write_bytes(b"")
        line = rf"{name}: the weights cannot be read \((the file ends early; get it again|.*header)"
        refused(files | {"weights": str(tmp_path / name)}, line)

    def test_a_logit_scale_that_is_no_logarithm(self, tmp_path, state):
        """Of 100 itself a softmax is 0 or 1 everywhere: every map would be zero."""
        state = {**state, "logit_scale": torch.tensor(100.0)}
        files = write_model(tmp_path, texts_config(), state)
        refused(files, r"model\.pt: logit_scale must be a logarithm, at most 10 .*; got 100; store")
        state["logit_scale"] = torch.tensor(10.0)
        assert load_clip(write_model(tmp_path, texts_config(), state)).logit_scale > 22_000

    def test_openai_format_with_gelu(self, tmp_path, state):
        config = texts_config() | {"quick_gelu": False}
        files = write_model(tmp_path, config, state)
        refused(files, "QuickGELU")
        write_jit_archive(tmp_path / "jit.pt", texts_config(), state)
        refused(files | {"weights": str(tmp_path / "jit.pt")}, "QuickGELU")
        save_file(state, tmp_path / "model.safetensors")
        gelu = load_clip(files | {"weights": str(tmp_path / "model.safetensors")})
        assert isinstance(gelu.visual.transformer.resblocks[0].mlp.gelu, torch.nn.GELU)

    @pytest.mark.parametrize(
        ("architecture", "tag", "match"),
        [
            (
                "ViT-B-16",
                "openai",
                "weights openai need QuickGELU, which architecture ViT-B-16 does not have",
            ),
            ("ViT-B-16-quickgelu", "laion2b_s34b_b88k", "knows the tag .* for ViT-B-16, not for"),
            ("ViT-B-16-quickgelu", "nonsense", "neither a file nor a tag"),
            ("ViT-B-17", "openai", "neither a model of open_clip|no tag of ViT-B-17"),
            (None, "openai", "`architecture` is needed"),
        ],
    )
    def test_tags(self, architecture, tag, match):
        refused({"architecture": architecture, "weights": tag}, match)

    def test_no_network(self, monkeypatch):
        library = logging.getLogger("huggingface_hub.utils._http")

        def unreachable(known, **_):
            assert not library.isEnabledFor(logging.WARNING), "of each try"
            raise OSError("Name or service not known\nand a long story.")

        monkeypatch.setattr("clip_wsss.models.clip.reach_hub", lambda: None)
        monkeypatch.setattr(open_clip.pretrained, "download_pretrained", unreachable)
        refused(
            {"architecture": "ViT-B-16-quickgelu", "weights": "openai"},
            r"cannot be downloaded \(Name or service not known\); a local file .* instead",
        )

    def test_a_hub_that_does_not_answer_is_asked_once(self, monkeypatch, tmp_path):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))

        def late(known, prefer_hf_hub):
            raise OSError("by the hub" if prefer_hf_hub else "by the address")

        monkeypatch.setattr(open_clip.pretrained, "download_pretrained", late)
        entry = {"architecture": "ViT-B-16-quickgelu", "weights": "openai"}
        refused(
            entry, r"not here and cannot be downloaded \(http://127.0.0.1:1 cannot be reached: "
        )
        dino = {"architecture": "vit_small_patch16_224.dino", "weights": "pretrained"}
        with pytest.raises(InputError, match=r"made by timm \(http://127.0.0.1:1 cannot be reach"):
            load_timm(dino)
        plain = tmp_path / ".cache/clip/ViT-B-16.pt"
        plain.parent.mkdir(parents=True)
        plain.touch()
        refused(entry, r"\(by the address\)")
        hub = tmp_path / "models--timm--vit_base_patch16_clip_224.openai/snapshots/1"
        hub.mkdir(parents=True)
        (hub / "open_clip_model.safetensors").touch()
        refused(entry, r"\(by the hub\)")

    @pytest.mark.parametrize(
        ("architecture", "match"),
        [
            ("RN50", "RN50 is a ResNet"),
            ("convnext_base", "convnext_base: convnext_base must be of timm's ViT or EVA family"),
            ("ViTamin-S", "ViTamin-S: vitamin_small_224 must be of timm's .* it is of vitamin"),
            ("coca_ViT-B-32", "coca_ViT-B-32 pools by attention"),
            # FAULTS 31
            ("roberta-ViT-B-32", "text_cfg.hf_model_name, roberta-base, needs the package trans"),
        ],
    )
    def test_towers_without_patch_tokens(self, tmp_path, state, architecture, match):
        save_file(state, tmp_path / "model.safetensors")
        weights = str(tmp_path / "model.safetensors")
        refused({"architecture": architecture, "weights": weights}, match)

    def test_a_foreign_tokenizer_is_refused_before_the_download(self):
        # FAULTS 31
        entry = {"architecture": "ViT-L-14-CLIPA", "weights": "datacomp1b"}
        refused(entry, "text_cfg.hf_tokenizer_name, bert-base-uncased, needs the package")

    def test_openai_resnet_by_its_shapes(self, tmp_path):
        torch.save({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "RN50.pt")
        refused({"architecture": None, "weights": str(tmp_path / "RN50.pt")}, "ResNet")

    def test_files_that_are_no_weights(self, files, tmp_path):
        (tmp_path / "text.pt").write_text("no weights")
        (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
        torch.save(slice(1, 2), tmp_path / "code.pt")  # would need free unpickling
        torch.save([1, 2], tmp_path / "list.pt")
        (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        refused(files | {"weights": str(tmp_path / "lfs.safetensors")}, "a pointer of Git LFS; get")
        for name in ("text.pt", "cut.safetensors", "code.pt", "list.pt", "none.pt"):
            refused(files | {"weights": str(tmp_path / name)}, name)

    def test_other_files_are_called_what_they_are(self, files, tmp_path, state):
        save_file(state, tmp_path / "tensors.pt")
        torch.save(state, tmp_path / "pt.safetensors")
        np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
        torch.save({"epoch": 3, "model": state, "ema": {}}, tmp_path / "whole.pt")
        for name, said in {
            "tensors.pt": "a file of safetensors; call it .safetensors",
            "pt.safetensors": "a file of PyTorch; call it .pt",
            "arrays.npz": "arrays of NumPy; save a state dict or safetensors",
            "whole.pt": r"holds mappings \(model, ema\) and no state dict of a CLIP model; save",
        }.items():
            refused(files | {"weights": str(tmp_path / name)}, said)

    @pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
    def test_a_prefix_that_all_names_have_is_none_of_theirs(self, files, tmp_path, state, prefix):
        named = {prefix + name: value for name, value in state.items()}
        torch.save({"state_dict": named}, tmp_path / "lightning.ckpt")
        found = load_clip(files | {"weights": str(tmp_path / "lightning.ckpt")}).visual.proj
        assert torch.equal(found, state["visual.proj"])

    def test_configs_that_are_none(self, files, tmp_path):
        (tmp_path / "broken.json").write_text("{")
        (tmp_path / "other.json").write_text('{"embed_dim": 3}')
        for name in ("broken.json", "other.json", "none.json"):
            refused(files | {"architecture": str(tmp_path / name)}, name)
        bad = texts_config()
        bad["vision_cfg"]["colour"] = "blue"
        (tmp_path / "key.json").write_text(json.dumps(bad))
        refused(files | {"architecture": str(tmp_path / "key.json")}, "cannot be built.*colour")

    def test_options(self, files):
        refused(files, "float16 needs CUDA", precision="float16", device="cpu")
        refused(
            files,
            "precision: must be one of float32, bfloat16, float16; got int8",
            precision="int8",
        )
        refused(files, "none, float16; got int8", round_weights="int8")
        refused(files, "resize", position_embedding={"resize": "nearest"})
        refused(files, "round", position_embedding={"round": "int8"})
        if not torch.cuda.is_available():
            refused(files, "there is no GPU", device="cuda")

    def test_scaled_cosine_attention(self, files, tmp_path):
        config = texts_config(scaled_cosine_attn=True)
        (tmp_path / "cosine.json").write_text(json.dumps(config))
        refused(files | {"architecture": str(tmp_path / "cosine.json")}, "scaled cosine")


class TestTexts:
    def test_mean_over_templates(self, files):
        clip = load_clip(files)
        a, b = clip.encode_texts([["a cat"], ["the cat"]])
        (mean,) = clip.encode_texts([["a cat", "the cat"]])
        torch.testing.assert_close(mean, F.normalize(a + b, dim=-1))
        assert mean.norm() == pytest.approx(1, abs=1e-6)

    def test_no_texts(self, files):
        assert load_clip(files).encode_texts([]).shape == (0, 24)

    def test_long_text_is_not_cut_in_silence(self, files):
        with pytest.raises(InputError, match="22 tokens, the model takes 16"):
            load_clip(files).encode_texts([["cat " * 20]])


class TestTower:
    def test_preprocess_rounds_each_side_up(self, files):
        clip = load_clip(files)
        rgb = np.random.default_rng(0).integers(0, 256, (13, 8, 3), dtype=np.uint8)
        image = clip.preprocess(rgb)
        assert image.shape == (3, 16, 8)
        assert image.dtype == torch.float32
        assert clip.grid((13, 8)) == (4, 2)
        resized = np.asarray(Image.fromarray(rgb).resize((8, 16), Image.BICUBIC)) / 255
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        np.testing.assert_allclose(image.permute(1, 2, 0), (resized - mean) / std, atol=1e-5)

    def test_cls_features_are_open_clips(self, files):
        clip = load_clip(files)
        rgb = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
        crop = clip.preprocess_ordinary(rgb)[None]
        assert crop.shape == (1, 3, 20, 20)
        expected = clip.network.encode_image(crop, normalize=True)
        torch.testing.assert_close(clip.cls_features(crop), expected, atol=1e-5, rtol=1e-5)

    def test_position_embedding(self, tmp_path, state):
        for rounded in ("none", "float16"):
            options = {"resize": "bilinear", "round": rounded}
            clip = random_clip(tmp_path, texts_config(), state, position_embedding=options)
            twin = Twin(state, heads=2, round_position=rounded == "float16")
            for grid in ((5, 5), (1, 9), (4, 19)):
                ours = clip._position_embedding(grid).double()
                torch.testing.assert_close(ours, twin.positions(grid), atol=1e-6, rtol=0)
                if rounded == "float16":
                    torch.testing.assert_close(ours, ours.half().double(), atol=0, rtol=0)

    def test_bicubic_position_embedding_is_open_clips(self, files, state):
        clip = load_clip(files, position_embedding={"resize": "bicubic"})
        resized = {"visual.positional_embedding": state["visual.positional_embedding"].clone()}
        model = open_clip.CLIP(**texts_config(side=8))
        open_clip.model.resize_pos_embed(resized, model)
        expected = resized["visual.positional_embedding"]
        torch.testing.assert_close(clip._position_embedding((8, 8)), expected)

    def test_rounding_leaves_norms_and_embeddings_alone(self, tmp_path):
        raw = make_openai_state_dict(texts_config(), 7)
        files = write_model(tmp_path, texts_config(), raw) | {"round_weights": "float16"}
        for name, tensor in load_clip(files).network.state_dict().items():
            kept = "ln_" in name or "embedding" in name or name == "logit_scale"
            expected = raw[name] if kept else raw[name].half().float()
            mlp = name.startswith("visual.") and ".mlp." in name  # its QuickGELU is folded
            if mlp and "c_fc" in name:
                expected = expected * 1.702
            elif mlp and name.endswith("c_proj.weight"):
                expected = expected / 1.702
            torch.testing.assert_close(tensor, expected, atol=0, rtol=0)
            if tensor.ndim > 1 and not mlp:
                assert kept == bool((tensor != tensor.half().float()).any()), name
        unrounded = load_clip(files, round_weights="none").network.state_dict()
        torch.testing.assert_close(unrounded["visual.proj"], raw["visual.proj"], atol=0, rtol=0)

    @pytest.mark.parametrize(
        "variant",
        [
            {"no_ln_pre": True},
            {"pool_type": "avg"},
            {"pool_type": "avg", "final_ln_after_pool": True},
            {"ls_init_value": 0.3},
            {"pos_embed_type": "sin_cos_2d"},
            {"patch": 7, "side": 3},
            {"patch_dropout": 0.5},
            {"qk_norm": True},
            {"scale_heads": True, "scale_attn": True, "scale_attn_inner": True, "scale_fc": True},
            {"norm_kwargs": {"eps": 1e-6}},
        ],
        ids=lambda variant: "-".join(variant),
    )
    def test_any_vision_transformer(self, tmp_path, variant):
        """The parts together are the library's tower, and the maps are attention."""
        config = texts_config(**variant)
        clip = random_clip(tmp_path, config, make_openai_state_dict(config, 4))
        size = config["vision_cfg"]["image_size"]
        batch = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        expected = clip.network.encode_image(batch, normalize=True)
        torch.testing.assert_close(clip.cls_features(batch), expected, atol=1e-5, rtol=1e-5)
        x, maps = clip.trunk(batch, 9)
        tokens = clip.last_block(x, clip.normed(x))
        maps[:, -1] = clip.attention(-1, x)
        patches = (size // clip.patch[0]) ** 2
        assert maps.shape == (2, 3, patches, patches)
        assert maps.min() >= 0
        rows = maps.sum(dim=-1)  # the CLS column is cut, the rest not renormalised
        assert rows.max() < 1 + 1e-5
        assert rows.mean() < 0.999
        coarse = random_clip(
            tmp_path, config, make_openai_state_dict(config, 4), precision="bfloat16"
        )
        assert coarse.trunk(batch, 9)[0].dtype == torch.bfloat16
        torch.testing.assert_close(coarse.cls_features(batch), expected, atol=0.1, rtol=0)
        pooled, _ = clip.visual._pool(tokens)
        if variant.get("pool_type") == "avg":
            feature = F.normalize(pooled @ clip.visual.proj, dim=-1)
            torch.testing.assert_close(clip.image_features(tokens), feature)

    def test_custom_attention_maps_give_the_custom_output(self, tmp_path):
        config = texts_config(qk_norm=True, head_width=32)  # one head
        clip = random_clip(tmp_path, config, make_openai_state_dict(config, 4))
        block = clip.visual.transformer.resblocks[0]
        a = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(0))
        y, weights = clip._attend(block, a, True)
        values = (a @ block.attn.in_proj_weight.T + block.attn.in_proj_bias)[..., 64:]
        torch.testing.assert_close(block.attn.out_proj(weights @ values), y, atol=1e-5, rtol=1e-5)

    def test_the_patch_mean_leaves_cls_out(self, files):
        clip = load_clip(files)
        tokens = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
        feature = clip.image_features(tokens)
        tokens[:, 0] = 100
        torch.testing.assert_close(clip.image_features(tokens), feature)

    def test_load_for_a_cam_entry(self, files):
        entry = {"precision": "bfloat16", "position_embedding": {"resize": "bilinear"}}
        clip = load_for(entry, files, "auto")
        assert clip.dtype == torch.bfloat16
        assert clip.visual.proj.dtype == torch.bfloat16
        assert clip.visual.ln_post.weight.dtype == torch.float32

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_cuda_resembles_the_cpu(self, files, precision):
        ours, theirs = (
            features(load_clip(files, precision=precision, device="cuda")),
            features(load_clip(files)),
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.cpu(), b, atol=3e-2, rtol=0)


def test_a_frozen_clip_has_no_gradients(files):
    assert not any(parameter.requires_grad for parameter in load_clip(files).network.parameters())
