"""Whether weights were downloaded before; nothing is asked of the network."""

from pathlib import Path

import open_clip

from clip_wsss.models.hub import in_hub_cache

BY_ADDRESS = "~/.cache/clip"  # where open_clip keeps what it downloads by an address


def downloaded(architecture: str, tag: str) -> str | None:
    """Where open_clip finds the weights of a tag on this machine: the name of a cache, or None."""
    known = open_clip.get_pretrained_cfg(architecture, tag) or {}
    if in_hub_cache(known.get("hf_hub", "").rpartition("/")[0]):
        return "the cache of the Hugging Face hub"
    plain = Path(BY_ADDRESS).expanduser() / known.get("url", "").rpartition("/")[2]
    return BY_ADDRESS if plain.is_file() else None
