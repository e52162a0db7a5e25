"""How the images of a split are shared out over jobs."""

from collections.abc import Sequence


def shard_names(count: int) -> list[str]:
    """Names of the shards: `0001of0002`, `0002of0002`."""
    return [f"{number:04d}of{count:04d}" for number in range(1, count + 1)]


def shard_pattern(count: int) -> str:
    """A glob pattern of the names of the shards; there may be files of another number of shards."""
    return f"*of{count:04d}"


def shard_ids(ids: Sequence[str], name: str) -> list[str]:
    """Images of a shard: neighbours in the list, sizes that differ by one at most.

    There may be fewer images than shards; some shards are empty then.
    """
    number, count = map(int, name.split("of"))
    return list(ids[len(ids) * (number - 1) // count : len(ids) * number // count])
