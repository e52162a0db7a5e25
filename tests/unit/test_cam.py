"""The fast path of CAMs equals its slow twin; the file of CAMs; bad images."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_cases import make_openai_state_dict, random_clip, small_config
from gradcam_twin import Twin, refined, scaled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_wsss.affinity import AFFINITIES, caa
from clip_wsss.cam import TARGETS, ImageCams, read_cams, read_skipped, write_cams, write_shard
from clip_wsss.errors import InputError
from clip_wsss.gradcam import Refinement, class_maps, fitting_batch

CAA = {"layers": 2, "sinkhorn": 3, "power": 2, "threshold": 0.4, "box_edge": "clamp"}


def directions(generator, count, width=24):
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1)


def photographs(generator, count, grid, patch=4, spare=(0, 0)):
    height, width = (n * patch - s for n, s in zip(grid, spare, strict=True))
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()


def fast(clip, images, foreground, background, target="softmax", caa_settings=CAA):
    refinement = Refinement(caa, caa_settings, caa_settings["layers"])
    batch = torch.stack([clip.preprocess(rgb) for rgb in images])
    return class_maps(clip, batch, foreground, background, TARGETS[target], refinement)


grids = st.one_of(
    st.sampled_from([(1, 6), (7, 1), (1, 1), (4, 19), (2, 38)]),  # the last two: 76 patches
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    grid=grids,
    spare=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    layers=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    no_ln_pre=st.booleans(),
    final_ln_after_pool=st.booleans(),
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    words=st.integers(0, 3),
    target=st.sampled_from(sorted(TARGETS)),
    edge=st.sampled_from(["clamp", "full"]),
    maps=st.integers(1, 4),
    power=st.integers(1, 3),
    rounded=st.booleans(),
)
def test_fast_path_equals_its_twin(
    seed,
    grid,
    spare,
    layers,
    heads,
    no_ln_pre,
    final_ln_after_pool,
    counts,
    words,
    target,
    edge,
    maps,
    power,
    rounded,
):
    config = small_config(
        layers=layers,
        head_width=32 // heads,
        no_ln_pre=no_ln_pre,
        final_ln_after_pool=final_ln_after_pool,
    )
    state = make_openai_state_dict(config, seed, logit_scale=2.0)
    rounding = {"round_weights": "float16", "position_embedding": {"round": "float16"}}
    with tempfile.TemporaryDirectory() as folder:
        clip = random_clip(Path(folder), config, state, **(rounding if rounded else {}))
    twin = Twin(state, heads, True, final_ln_after_pool, rounded, rounded)
    generator = torch.Generator().manual_seed(seed)
    images = photographs(generator, len(counts), grid, spare=spare)
    background = directions(generator, words)
    foreground = [directions(generator, count) for count in counts]
    own = CAA | {"layers": maps, "box_edge": edge, "power": power}
    result = fast(clip, images, foreground, background, target, own)
    assert clip.grid(images.shape[1:3]) == grid
    for rgb, features, (initial, after) in zip(images, foreground, result, strict=True):
        assert initial.shape == after.shape == (len(features), *grid)
        for position in range(len(features)):
            raw, attention = twin.cam(twin.preprocess(rgb), features, background, position, target)
            ours, ours_after = initial[position].numpy(), after[position].numpy()
            assert np.isfinite(ours).all()
            assert np.isfinite(ours_after).all()
            if raw.max() - raw.min() > 1e-5:  # else float32 itself loses the map
                np.testing.assert_allclose(ours, scaled(scaled(raw)), atol=5e-5)
            wanted = refined(ours, attention, maps, 3, 0.4, edge, power)
            np.testing.assert_allclose(ours_after, wanted, atol=5e-5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    config = small_config()
    return random_clip(tmp_path_factory.mktemp("clip"), config, make_openai_state_dict(config, 1))


def test_batch_does_not_matter(clip):
    generator = torch.Generator().manual_seed(3)
    images = photographs(generator, 4, (5, 6))
    foreground = [directions(generator, count) for count in (2, 1, 3, 1)]
    background = directions(generator, 3)
    together = fast(clip, images, foreground, background)
    for index in range(4):
        ((initial, after),) = fast(
            clip, images[index : index + 1], foreground[index : index + 1], background
        )
        torch.testing.assert_close(together[index][0], initial, atol=5e-5, rtol=0)
        torch.testing.assert_close(together[index][1], after, atol=5e-5, rtol=0)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("logit_scale", [3.0, 12.0, 200.0])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_saturated_scores_stay_finite(tmp_path, target, logit_scale, precision):
    """exp(200) overflows float32; exp(12) makes every probability 0 or 1."""
    config = small_config()
    state = make_openai_state_dict(config, 2, logit_scale=logit_scale)
    clip = random_clip(tmp_path, config, state, precision=precision)
    generator = torch.Generator().manual_seed(0)
    images = photographs(generator, 2, (1, 5)).copy()
    images[1] = 0  # an image without any structure
    foreground = [directions(generator, 2), directions(generator, 1)]
    for initial, after in fast(clip, images, foreground, directions(generator, 2), target):
        for maps in (initial, after):
            assert torch.isfinite(maps).all()
            assert maps.min() >= 0
            assert maps.max() <= 1


def test_only_class_without_background_words_gives_zero(clip):
    """The softmax over one text is 1, whatever the image: nothing to differentiate."""
    generator = torch.Generator().manual_seed(0)
    images = photographs(generator, 1, (4, 4))
    ((initial, after),) = fast(clip, images, [directions(generator, 1)], directions(generator, 0))
    assert not initial.any()
    assert not after.any()


def test_bfloat16_resembles_float32(tmp_path):
    config = small_config(width=64, head_width=16)
    state = make_openai_state_dict(config, 5)
    generator = torch.Generator().manual_seed(0)
    images = photographs(generator, 3, (6, 6))
    foreground = [directions(generator, 2) for _ in images]
    background = directions(generator, 3)
    exact, coarse = (
        fast(random_clip(tmp_path, config, state, precision=p), images, foreground, background)
        for p in ("float32", "bfloat16")
    )
    for (initial, _), (other, _) in zip(exact, coarse, strict=True):
        assert other.dtype == torch.float32
        agreement = torch.corrcoef(torch.stack([initial.flatten(), other.flatten()]))[0, 1]
        assert agreement > 0.98


def test_one_forward_pass_serves_all_classes(clip, monkeypatch):
    """Classes and the refined map cost no second pass over the trunk."""
    calls = []
    trunk = type(clip).trunk
    monkeypatch.setattr(type(clip), "trunk", lambda *a: calls.append(a) or trunk(*a))
    generator = torch.Generator().manual_seed(0)
    images = photographs(generator, 2, (3, 3))
    fast(clip, images, [directions(generator, 3)] * 2, directions(generator, 1))
    assert len(calls) == 1


def test_large_images_come_in_smaller_batches(clip):
    assert fitting_batch(clip, (4, 4), 16, 2) == 16
    assert 1 <= fitting_batch(clip, (60, 60), 16, 2) < 16
    assert fitting_batch(clip, (600, 600), 16, 2) == 1


class TinyDataset:
    """Images in memory, with the interface of a data set."""

    def __init__(self, images, labels, bad=()):
        self.images, self.classes, self.bad = images, labels, dict(bad)

    def size(self, name):
        return self.images[name].shape[:2]

    def labels(self, name):
        return self.classes[name]

    def image(self, name):
        if name in self.bad:
            raise InputError(self.bad[name])
        return self.images[name]


@pytest.fixture
def job(clip, tmp_path):
    generator = torch.Generator().manual_seed(0)
    names = ["d", "a", "c", "b"]
    shapes = [(4, 5), (3, 3), (4, 5), (2, 6)]
    images = {
        name: photographs(generator, 1, grid)[0] for name, grid in zip(names, shapes, strict=True)
    }
    dataset = TinyDataset(images, {"d": [2, 0], "a": [1], "c": [0], "b": [2, 1, 0]})
    texts = tmp_path / "texts.npz"
    np.savez(texts, foreground=directions(generator, 3), background=directions(generator, 2))
    entry = {"target": "softmax", "affinity": "caa", "caa": CAA}
    return dataset, names, clip, texts, entry


def test_shard_keeps_order_classes_and_sizes(job, tmp_path):
    dataset, names, clip, texts, _ = job
    write_shard(*job, tmp_path / "a.npz", batch=2)
    write_shard(*job, tmp_path / "b.npz", batch=2)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_cams(tmp_path / "a.npz")
    assert [image.id for image in found] == names
    features = {k: torch.from_numpy(v) for k, v in np.load(texts).items()}
    for image in found:
        rgb = dataset.image(image.id)
        assert image.size == rgb.shape[:2]
        assert image.keys.tolist() == dataset.labels(image.id)
        ((initial, after),) = fast(
            clip, rgb[None], [features["foreground"][image.keys]], features["background"]
        )
        np.testing.assert_allclose(image.initial, initial, atol=5e-5)
        np.testing.assert_allclose(image.refined, after, atol=5e-5)


def test_shard_without_affinity(job, tmp_path):
    *rest, entry = job
    write_shard(*rest, entry | {"affinity": "none"}, tmp_path / "a.npz")
    assert all(image.refined is None for image in read_cams(tmp_path / "a.npz"))


def test_empty_shard(job, tmp_path):
    dataset, _, clip, texts, entry = job
    write_shard(dataset, [], clip, texts, entry, tmp_path / "a.npz")
    assert read_cams(tmp_path / "a.npz") == []


def test_bad_image_fails_or_is_listed(job, tmp_path):
    dataset, _, _, _, _ = job
    dataset.bad = {"a": "a.jpg: truncated"}
    dataset.classes["b"] = []
    with pytest.raises(InputError, match=r"b: has no class"):
        write_shard(*job, tmp_path / "x.npz")
    write_shard(*job, tmp_path / "x.npz", on_bad_image="skip")
    assert [image.id for image in read_cams(tmp_path / "x.npz")] == ["d", "c"]
    skipped = read_skipped(tmp_path / "x.npz")
    assert list(skipped) == ["a", "b"]
    assert skipped["a"] == "a.jpg: truncated"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "sigmoid"}, "target: sigmoid is unknown; known are logit, softmax"),
        ({"affinity": "random-walk"}, "affinity: random-walk is unknown; known are caa, none"),
    ],
)
def test_unknown_names_are_refused(job, tmp_path, change, message):
    *rest, entry = job
    with pytest.raises(InputError, match=message):
        write_shard(*rest, entry | change, tmp_path / "x.npz")


def test_texts_of_another_model_are_refused(job, tmp_path):
    dataset, names, clip, _, entry = job
    other = tmp_path / "other.npz"
    np.savez(other, foreground=np.zeros((3, 7), np.float32), background=np.zeros((2, 7)))
    with pytest.raises(InputError, match="width 7, the model's is 24"):
        write_shard(dataset, names, clip, other, entry, tmp_path / "x.npz")


def test_a_new_target_and_affinity_are_one_function_each(job, tmp_path, monkeypatch):
    def margin(logits, position, classes):
        return logits[:, position] - logits[:, classes:].logsumexp(dim=-1)

    def blur(cam, attention, settings):
        return cam.mean(dim=(1, 2), keepdim=True).expand_as(cam) + settings["amount"] * cam

    monkeypatch.setitem(TARGETS, "margin", margin)
    monkeypatch.setitem(AFFINITIES, "blur", blur)
    *rest, _ = job
    entry = {"target": "margin", "affinity": "blur", "blur": {"amount": 0.5}}
    write_shard(*rest, entry, tmp_path / "x.npz")
    for image in read_cams(tmp_path / "x.npz"):
        np.testing.assert_allclose(image.refined, image.initial, atol=1e-5)


@given(seed=st.integers(0, 1000), count=st.integers(0, 4), with_refined=st.booleans())
@settings(max_examples=20, deadline=None)
def test_file_of_cams_round_trips(seed, count, with_refined):
    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        shape = tuple(rng.integers(1, 5, 3))
        maps = [rng.random(shape, dtype=np.float32) for _ in range(2)]
        images.append(
            ImageCams(
                f"2008_{index:06}é",
                tuple(rng.integers(1, 500, 2).tolist()),
                rng.permutation(20)[: shape[0]],
                maps[0],
                maps[1] if with_refined else None,
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "000.npz"
        write_cams(path, images, {"bad": "bad.jpg: truncated"})
        found, skipped = read_cams(path), read_skipped(path)
        first = path.read_bytes()
        write_cams(path, images, {"bad": "bad.jpg: truncated"})
        assert path.read_bytes() == first
        assert [file.name for file in path.parent.iterdir()] == ["000.npz"]
    assert skipped == {"bad": "bad.jpg: truncated"}
    assert len(found) == count
    for ours, theirs in zip(found, images, strict=True):
        assert (ours.id, ours.size) == (theirs.id, theirs.size)
        for name in ("keys", "initial", "refined"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_damaged_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_cams(tmp_path / "none.npz")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(InputError, match=r"half\.npz: not an npz"):
        read_cams(tmp_path / "half.npz")


def test_readers_of_cams_do_without_torch():
    code = "import sys; import clip_wsss.cam, clip_wsss.masks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_npz_that_is_no_shard_gets_one_line(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(1))
    with pytest.raises(InputError, match="is no shard of CAMs"):
        read_cams(tmp_path / "x.npz")
