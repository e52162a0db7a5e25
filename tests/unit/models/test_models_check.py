"""Towers that cannot be loaded are said before the first map, and nothing is downloaded for it."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from clip_cases import make_openai_state_dict, small_config, write_model
from safetensors.torch import save_file

from clip_wsss.core import memory
from clip_wsss.core.errors import InputError
from clip_wsss.data.check import Use, write_check
from clip_wsss.models import clip
from clip_wsss.models.check import check_models

FAR = {"architecture": "ViT-B-16-quickgelu", "weights": "openai"}
TIMM = {"library": "timm", "architecture": "vit_tiny_patch16_224"}


@pytest.fixture(autouse=True)
def _no_download(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", refuse)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)


@pytest.fixture
def files(tmp_path):
    """Entries of `models` by what is wrong with their file."""
    config = small_config()
    state = make_openai_state_dict(config)
    entries = {"good": write_model(tmp_path, config, state)}
    (tmp_path / "wide.json").write_text(json.dumps(small_config(width=48)), encoding="utf-8")
    entries["shape"] = {**entries["good"], "architecture": str(tmp_path / "wide.json")}
    (tmp_path / "junk.pt").write_bytes(b"no weights")
    entries["junk"] = {**entries["good"], "weights": str(tmp_path / "junk.pt")}
    (tmp_path / "page.pt").write_bytes(b"<!DOCTYPE html>")
    entries["page"] = {**entries["good"], "weights": str(tmp_path / "page.pt")}
    torch.save([1, 2], tmp_path / "list.pt")
    entries["list"] = {**entries["good"], "weights": str(tmp_path / "list.pt")}
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    entries["json"] = {**entries["good"], "architecture": str(tmp_path / "bad.json")}
    save_file({"head.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    entries["timm"] = {**TIMM, "weights": str(tmp_path / "other.safetensors")}
    return {name: {"library": "open_clip", **entry} for name, entry in entries.items()}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("shape", "does not fit the architecture"),
        ("junk", "junk.pt: the weights cannot be read ("),
        ("page", "page.pt: the weights cannot be read (not a file of tensors alone; save a state"),
        ("list", "list.pt: holds no state dict of a CLIP model"),
        ("json", "bad.json: an open_clip model config has the keys embed_dim"),
        ("timm", "other.safetensors: lacks blocks.0.attn.proj.bias; is it of another"),
    ],
)
def test_a_file_that_does_not_fit_is_a_line(files, name, line):
    (said,) = check_models({"good": files["good"], name: files[name]})
    assert said.startswith(f"models.{name}: ")
    assert line in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"architecture": "ViT-B-61", "weights": "openai"}, "architecture ViT-B-61 is neither"),
        ({"architecture": "ViT-B/16", "weights": "openai"}, "architecture ViT-B/16 is neither"),
        (
            {"architecture": "ViT-B-32", "weights": "opneai"},
            "weights opneai is neither a file nor a tag of ViT-B-32 (open_clip's: ",
        ),
        ({"architecture": "RN50-quickgelu", "weights": "openai"}, "is a ResNet"),
        ({"architecture": "ViT-B-16-quickgelu", "weights": "openai"}, None),
        ({**TIMM, "weights": "pretrained"}, None),
        (
            {**TIMM, "architecture": "vit_tiny", "weights": "pretrained"},
            "architecture vit_tiny: timm has no network of this name",
        ),
        (
            {**TIMM, "architecture": f"{TIMM['architecture']}.dinoo", "weights": "pretrained"},
            "timm has no weights of this name; choose one of `timm.list_pretrained('vit_tiny_pat",
        ),
        (
            {**TIMM, "architecture": "resnet18", "weights": "pretrained"},
            "resnet18 must be of timm's ViT or EVA family",
        ),
    ],
)
def test_names_are_known_without_a_download(model, line):
    said = check_models({"x": {"library": "open_clip", **model}})
    if line is None:
        assert said == []
    else:
        assert said[0].startswith("models.x: ")
        assert line in said[0]


def test_more_blocks_than_a_tower_has_are_said_before_the_first_map(files):
    """Up to eight are all that there are: the default of a tower of three."""
    names = {"own": files["good"], "far": {"library": "open_clip", **FAR}}
    names["timm"] = {**TIMM, "weights": "pretrained"}
    said = check_models(
        names,
        [
            ("affinity `a`", "own", 8, None),
            ("affinity `b`", "own", 99, None),
            ("affinity `c`", "own", 8, [0, -4]),
            ("affinity `d`", "far", 13, None),
            ("affinity `e`", "timm", 12, None),
            ("affinity `f`", "timm", 8, [12]),
        ],
    )
    assert said == [
        "affinity `b`: attention of 99 blocks is asked for, and the tower has 3; set layers to 3 "
        "or fewer (models.own)",
        "affinity `c`: attention: block -4 must be from -3, the first, to 2, the last (models.own)",
        "affinity `d`: attention of 13 blocks is asked for, and the tower has 12; set layers to "
        "12 or fewer (models.far)",
        "affinity `f`: attention: block 12 must be from -12, the first, to 11, the last "
        "(models.timm)",
    ]


def test_texts_that_a_tower_cannot_encode_are_said_before_the_first_map(files, tmp_path):
    config = small_config()
    config["text_cfg"] |= {"vocab_size": 49408}
    own = write_model(tmp_path, config, make_openai_state_dict(config))  # of 12 tokens
    np.savez(tmp_path / "t.npz", texts=np.array(["a dog"]), features=np.ones((1, 24)))
    names = {
        "own": {"library": "open_clip", **own},
        "far": {"library": "open_clip", **FAR},
        "file": {"library": "open_clip", **FAR, "text_features": str(tmp_path / "t.npz")},
    }
    names["file"]["architecture"] = own["architecture"]
    names["file"]["weights"] = own["weights"]
    long = "a photo of a {} in a room with very many tables and chairs"
    said = check_models(
        names,
        prompts=[
            ("texts `a`", "own", ["a {}", long], ["dog"]),
            ("texts `b`", "own", ["a {}"], ["dog", "a b c d e f g h i j"]),
            ("texts `a`", "far", [long], ["dog"]),
            ("texts `c`", "far", ["a {}", "{} " + "and so on " * 26], ["dog"]),
            ("texts `d`", "file", ["a {}"], ["dog", "cat"]),
        ],
    )
    text, far = long.replace("{}", "dog"), ("dog " + "and so on " * 26)[:60]
    assert said == [
        f"models.own: texts `a`: text '{text[:60]}...' has 16 tokens, the model takes 12; shorten "
        "the template or the names",
        f"models.far: texts `c`: text '{far}...' has 81 tokens, the model takes 77; shorten the "
        "template or the names",
        f"models.file: texts `d`: {tmp_path / 't.npz'}: lacks the sentence 'a cat'; make the file "
        "again with it (docs/towers.md)",
    ]
    (said,) = check_models(
        {"own": names["own"]}, prompts=[("texts `b`", "own", ["{}"], ["a b c d e f g h i j k"])]
    )
    assert said.startswith("models.own: texts `b`: text 'a b c d e f g h i j k")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
@pytest.mark.parametrize("step", ["read_weights", "load_into"])
def test_a_model_that_does_not_fit_into_memory_is_a_line(files, monkeypatch, error, step):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(clip, step, fail)
    (said,) = check_models({"x": files["good"]})
    assert "the model does not fit into memory; close other programs, or name a smaller" in said


def test_a_model_is_not_built_where_it_would_not_fit(files, tmp_path, monkeypatch):
    """Else the system would end the process while its memory is filled."""
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    config = small_config()
    config["vision_cfg"] |= {"width": 6400, "layers": 3}
    (tmp_path / "vast.json").write_text(json.dumps(config), encoding="utf-8")
    model = {**files["good"], "architecture": str(tmp_path / "vast.json")}
    (said,) = check_models({"x": model})
    assert "vast.json takes about 5.9 GB of memory, and 1.0 GB are free; close" in said


def test_they_are_said_with_what_is_wrong_with_the_data(dataset, tmp_path):
    model = {"library": "open_clip", "architecture": "ViT-B-61", "weights": "openai"}
    with pytest.raises(InputError) as error:
        write_check(
            dataset,
            {"gone": Use()},
            tmp_path / "x.json",
            others=lambda _: check_models({"x": model}),
        )
    first, second = str(error.value).split("\n")
    assert first.startswith("models.x: architecture ViT-B-61")
    assert "gone" in second
