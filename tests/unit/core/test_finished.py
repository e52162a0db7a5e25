"""What is kept of a shard that is being made."""

from contextlib import suppress

import pytest

from clip_wsss.core.finished import NOTHING, finished


def keep(path, plan="plan", version="1", **images):
    """Add images, and stop before the shard is whole."""
    with suppress(InterruptedError), finished(path, plan, lambda _: version) as kept:
        for id_, data in images.items():
            kept.add(id_, data)
        raise InterruptedError


def held(path, plan="plan", version="1"):
    with suppress(InterruptedError), finished(path, plan, lambda _: version) as kept:
        found = {id_: data for id_ in "abc" if (data := kept.get(id_)) is not None}
        raise InterruptedError
    return found


def test_images_are_kept_until_the_shard_is_whole(tmp_path):
    path = tmp_path / "new/0001of0001.npz"
    keep(path, a=b"first", b=b"")
    keep(path, b=b"second", c=b"3" * 5000)
    assert held(path) == {"a": b"first", "b": b"second", "c": b"3" * 5000}
    with finished(path, "plan", lambda _: "1"):
        pass
    assert not [*path.parent.iterdir()]
    NOTHING.add("a", b"first")
    assert NOTHING.get("a") is None


def test_another_plan_or_image_counts_anew(tmp_path):
    path = tmp_path / "0001of0001.npz"
    keep(path, a=b"first")
    assert held(path, version="2") == {}
    assert held(path) == {"a": b"first"}
    assert held(path, plan="other") == {}
    assert held(path) == {}


@pytest.mark.parametrize("cut", [1, 5, 12, 13])
def test_a_record_that_is_not_whole_ends_the_reading(tmp_path, cut):
    path = tmp_path / "0001of0001.npz"
    keep(path, a=b"first", b=b"second")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert held(path) == {"a": b"first"}
    keep(path, c=b"third")
    assert held(path) == {"a": b"first", "c": b"third"}
    file.write_bytes(whole[:-cut] + bytes([whole[-cut] ^ 1]) + whole[len(whole) - cut + 1 :])
    assert held(path) == {"a": b"first"}
