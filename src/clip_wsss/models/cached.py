"""Whether weights were downloaded before; nothing is asked of the network."""

from pathlib import Path

import open_clip
from huggingface_hub import constants

SUFFIXES = (".bin", ".pt", ".safetensors")


def downloaded(architecture: str, tag: str) -> str | None:
    """Where open_clip finds the weights of a tag on this machine: the name of a cache, or None."""
    known = open_clip.get_pretrained_cfg(architecture, tag) or {}
    repository = known.get("hf_hub", "").rpartition("/")[0].replace("/", "--")
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repository}" / "snapshots"
    if any(file.suffix in SUFFIXES and file.is_file() for file in snapshots.glob("*/*")):
        return "the cache of the Hugging Face hub"
    plain = Path("~/.cache/clip").expanduser() / known.get("url", "").rpartition("/")[2]
    return "~/.cache/clip" if plain.is_file() else None
