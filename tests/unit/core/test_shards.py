from hypothesis import given
from hypothesis import strategies as st

from clip_wsss.core.shards import is_shard, shard_ids, shard_names


def test_names():
    assert shard_names(2) == ["0001of0002", "0002of0002"]
    assert all(map(is_shard, [*shard_names(2), *shard_names(10_000)[-2:]]))
    assert not any(map(is_shard, ["seed0", "1of2", "0001of0002.zip", "x0001of0002"]))


@given(st.integers(0, 60), st.integers(1, 20))
def test_every_image_is_in_one_shard_and_the_shards_are_even(images, count):
    ids = [str(number) for number in range(images)]
    parts = [shard_ids(ids, name) for name in shard_names(count)]
    assert [id_ for part in parts for id_ in part] == ids
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
