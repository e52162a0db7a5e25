"""How the images of a split are shared out over jobs."""

import re
from collections.abc import Sequence


def shard_names(count: int) -> list[str]:
    """Names of the shards: `0001of0002`, `0002of0002`."""
    return [f"{number:04d}of{count:04d}" for number in range(1, count + 1)]


def is_shard(name: str) -> bool:
    """Whether a name is that of a shard, of however many."""
    return re.fullmatch(r"\d{4,}of\d{4,}", name) is not None


def shard_ids(ids: Sequence[str], name: str) -> list[str]:
    """Images of a shard: neighbours in the list, sizes that differ by one at most.

    There may be fewer images than shards; some shards are empty then.
    """
    number, count = map(int, name.split("of"))
    return list(ids[len(ids) * (number - 1) // count : len(ids) * number // count])
