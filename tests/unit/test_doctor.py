"""The page of clip-wsss doctor."""

import os
from pathlib import Path

from huggingface_hub import constants

from clip_wsss import cli
from clip_wsss.models.cached import downloaded


def test_the_page_says_what_is_here_and_names_no_folder(capsys):
    assert cli.main(["doctor"]) == 0
    page = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    for name in ("clip-wsss", "python", "memory", "disk", "gpu", "weights", "torch", "snakemake"):
        assert page[name]
    assert f"{len(os.sched_getaffinity(0))} CPUs" in page["processor"]
    text = " ".join(page.values())
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text


def test_weights_that_were_downloaded_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    of = ("ViT-B-16-quickgelu", "openai")
    assert downloaded(*of) is None
    plain = tmp_path / ".cache/clip/ViT-B-16.pt"
    plain.parent.mkdir(parents=True)
    plain.touch()
    assert downloaded(*of) == "~/.cache/clip"
    hub = tmp_path / "hub/models--timm--vit_base_patch16_clip_224.openai/snapshots/1"
    hub.mkdir(parents=True)
    (hub / "open_clip_model.safetensors").touch()
    assert downloaded(*of) == "the cache of the Hugging Face hub"
    assert downloaded("ViT-B-16", "no such tag") is None
