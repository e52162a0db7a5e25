"""The Hugging Face hub: what was downloaded from it before, and whether it answers."""

from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import get_session

SUFFIXES = (".bin", ".pt", ".safetensors")


def in_hub_cache(repository: str) -> bool:
    """Whether weights of a repository of the hub, `owner/name`, are on this machine."""
    folder = f"models--{repository.replace('/', '--')}"
    snapshots = Path(constants.HF_HUB_CACHE) / folder / "snapshots"
    return any(file.suffix in SUFFIXES and file.is_file() for file in snapshots.glob("*/*"))


def reach_hub() -> None:
    """Ask the hub once whether it is there: its library tries for minutes before it gives up.

    Raises:
        OSError: it does not answer within 10 s, or its library is told to be offline.
    """
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # whatever the network stack below raises
        raise OSError(f"{constants.ENDPOINT} cannot be reached: {error}") from None
