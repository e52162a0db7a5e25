"""The fast path of CAMs equals its slow twin; many variants from one pass; bad images."""

import io
import math
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_cases import make_openai_state_dict, random_clip, small_config, write_model
from gradcam_twin import Twin, refined, scaled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_wsss.cams import backward, context, passes
from clip_wsss.cams.backward import PassImage, WantedCam, class_maps, fitting_batch
from clip_wsss.cams.gradcam import GradCamSettings, gradcam
from clip_wsss.cams.passes import CamVariant, compute_pass, read_text_features, write_pass
from clip_wsss.core.errors import InputError
from clip_wsss.core.finished import finished
from clip_wsss.core.maps import read_maps, read_skipped
from clip_wsss.core.methods import method, registered
from clip_wsss.models.clip import load_clip
from clip_wsss.models.tower import capped

TARGETS = sorted(registered("target"))
CAA = {
    "method": "caa",
    "layers": 2,
    "sinkhorn": 3,
    "power": 2,
    "threshold": 0.4,
    "box_edge": "clamp",
}


SOFTMAX = {"method": "gradcam", "target": "softmax"}


def directions(generator, count, width=24):
    return torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1)


def photographs(generator, count, grid, patch=4, spare=(0, 0)):
    height, width = (n * patch - s for n, s in zip(grid, spare, strict=True))
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()


def fast(clip, images, foreground, background, target="softmax", caa_settings=CAA):
    """For each image its initial and its refined maps."""
    wanted = {"cam": wanted_cam("own", target, {"caa": caa_settings})}
    batch = torch.stack([clip.preprocess(rgb) for rgb in images])
    texts, members = one_vocabulary(images, foreground)
    found = class_maps(clip, batch, members, {"own": (texts, background)}, wanted)
    return [(maps["cam"], maps["caa"]) for maps in found]


def wanted_cam(texts, target, affinities):
    """What a pass makes of settings."""
    made = {name: method("affinity", one["method"]).bound(one) for name, one in affinities.items()}
    return WantedCam(texts, None, method("target", target).function, made)


def one_vocabulary(images, foreground):
    """Features of all classes of all images, and the images with keys into them."""
    ends = np.cumsum([0, *map(len, foreground)])
    members = [PassImage(str(i), rgb, range(ends[i], ends[i + 1])) for i, rgb in enumerate(images)]
    return torch.cat(list(foreground)), members


grids = st.one_of(
    st.sampled_from([(1, 6), (7, 1), (1, 1), (4, 19), (2, 38)]),  # the last two: 76 patches
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
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
    target=st.sampled_from(TARGETS),
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


@pytest.mark.parametrize("mask", ["boxes", "none", "superpixels"])
def test_caa_of_a_batch_at_once_is_that_of_each_image(clip, monkeypatch, mask):
    generator = torch.Generator().manual_seed(4)
    images = photographs(generator, 4, (6, 5))
    foreground = [directions(generator, count) for count in (2, 1, 3, 1)]
    background, own = directions(generator, 3), CAA | {"mask": mask, "box_edge": "full"}
    apart = fast(clip, images, foreground, background, caa_settings=own)
    monkeypatch.setattr(backward, "TOGETHER", ("cpu",))
    monkeypatch.setattr(backward, "_checked", lambda *_, **__: pytest.fail("image by image"))
    together = fast(clip, images, foreground, background, caa_settings=own)
    for (initial, after), (cam, one) in zip(together, apart, strict=True):
        assert torch.equal(initial, cam)
        assert len(after) == len(cam)
        torch.testing.assert_close(after, one, atol=1e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_maps_on_cuda_are_those_of_the_cpu(tmp_path):
    config = small_config()
    state, generator = make_openai_state_dict(config, 1), torch.Generator().manual_seed(5)
    images = photographs(generator, 4, (6, 5))
    foreground = [directions(generator, count) for count in (2, 1, 3, 1)]
    background, entry = directions(generator, 3), write_model(tmp_path, config, state)
    ours, theirs = (
        fast(load_clip(entry, device=device), images, foreground, background)
        for device in ("cuda", "cpu")
    )
    for (initial, after), (cam, one) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(initial.cpu(), cam, atol=1e-4, rtol=0)
        torch.testing.assert_close(after.cpu(), one, atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("logit_scale", [3.0, 12.0, 200.0])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_saturated_scores_stay_finite(tmp_path, target, logit_scale, precision):
    """exp(200) overflows float32; exp(12) makes every probability 0 or 1."""
    config = small_config()
    clip = random_clip(tmp_path, config, make_openai_state_dict(config, 2), precision=precision)
    clip.logit_scale = math.exp(logit_scale)  # which no file may hold
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


def test_one_forward_pass_serves_all_classes_and_variants(clip, monkeypatch):
    """The last block runs once for every number of classes, the trunk once; they bring all maps."""
    calls = []
    for part in ("passed", "through_last_block", "attention"):
        own = getattr(type(clip), part)
        monkeypatch.setattr(
            type(clip), part, lambda *a, own=own, part=part: calls.append(part) or own(*a)
        )
    generator = torch.Generator().manual_seed(0)
    images = photographs(generator, 3, (3, 3))
    batch = torch.stack([clip.preprocess(image) for image in images])
    members = [
        PassImage(*own) for own in zip("xyz", images, ([0, 1, 2], [1], [2, 1, 0]), strict=True)
    ]
    texts = {name: (directions(generator, 3), directions(generator, 2)) for name in "ab"}
    wanted = {
        f"{name} {target}": wanted_cam(
            name, target, {f"{name} {target} {n}": CAA | {"layers": n} for n in (1, 3)}
        )
        for name in "ab"
        for target in TARGETS
    }
    wanted["alone"] = wanted_cam("a", "softmax", {})
    for maps in class_maps(clip, batch, members, texts, wanted):
        assert len(maps) == (len(wanted) - 1) * 3 + 1
    assert calls == ["passed", "through_last_block", "through_last_block"]


def test_gradcam_of_one_image_is_that_of_the_batch(clip):
    generator = torch.Generator().manual_seed(4)
    images = photographs(generator, 2, (4, 5))
    foreground = [directions(generator, 2), directions(generator, 2)]
    background = directions(generator, 3)
    batch = torch.stack([clip.preprocess(image) for image in images])
    together = fast(clip, images, foreground, background)
    looks = context.look(clip, batch, 0)
    for image, own, looked, (initial, _) in zip(images, foreground, looks, together, strict=True):
        one = context.MapContext("x", image, [0, 1], own, background, looked)
        alone = context.initial(gradcam(one, GradCamSettings()))
        torch.testing.assert_close(alone, initial, atol=1e-5, rtol=0)


def test_large_images_come_in_smaller_batches(clip):
    assert fitting_batch(clip, (4, 4), 16) == 16
    assert fitting_batch(clip, (20, 20), 16) in range(2, 16)
    assert fitting_batch(clip, (600, 600), 16) == 1


class TinyDataset:
    """Images in memory, with the interface of a data set."""

    def __init__(self, images, labels, bad=()):
        self.images, self.classes, self.bad = images, labels, dict(bad)
        self.settings = {"on_bad_image": "fail"}

    def size(self, name):
        return self.images[name].shape[:2]

    def labels(self, name):
        return self.classes[name]

    def image(self, name):
        if name in self.bad:
            raise InputError(self.bad[name])
        return self.images[name]


@pytest.fixture
def job(clip):
    """Arguments of a pass over images of ragged grids and numbers of classes."""
    generator = torch.Generator().manual_seed(0)
    names = ["d", "a", "c", "b", "e", "f"]
    shapes = [(4, 5), (3, 3), (4, 5), (2, 6), (4, 5), (4, 5)]
    images = {
        name: photographs(generator, 1, grid)[0] for name, grid in zip(names, shapes, strict=True)
    }
    labels = {"d": [2, 0], "a": [1], "c": [0], "b": [2, 1, 0], "e": [0, 1], "f": [1]}
    texts = {"own": (directions(generator, 3), directions(generator, 2))}
    cams = {"cam": CamVariant("own", SOFTMAX, {"caa": CAA})}
    return TinyDataset(images, labels), names, clip, texts, cams


def outputs(folder, *names):
    return {name: folder / f"{name}.npz" for name in names}


def test_shard_keeps_order_classes_and_sizes(job, tmp_path):
    dataset, names, clip, texts, _ = job
    paths, again = (outputs(tmp_path / folder, "cam", "caa") for folder in "ab")
    write_pass(*job, paths, batch=2)
    write_pass(*job, again, batch=2)
    for name, path in paths.items():
        assert path.read_bytes() == again[name].read_bytes()
    initial, refined = (read_maps(path) for path in paths.values())
    assert [image.id for image in initial] == names
    foreground, background = texts["own"]
    for first, second in zip(initial, refined, strict=True):
        rgb = dataset.image(first.id)
        ((maps, after),) = fast(clip, rgb[None], [foreground[first.keys]], background)
        for image, wanted in ((first, maps), (second, after)):
            assert image.id == first.id
            assert image.size == rgb.shape[:2]
            assert image.keys.tolist() == dataset.labels(image.id)
            np.testing.assert_allclose(image.maps, wanted, atol=5e-5)


def test_only_wanted_outputs_are_written(job, tmp_path):
    """Initial maps alone, and refined ones whose initial maps are there already."""
    write_pass(*job, outputs(tmp_path / "both", "cam", "caa"))
    write_pass(*job, outputs(tmp_path / "refined", "caa"))
    *rest, cams = job
    alone = {name: CamVariant(cam.texts, cam.cam) for name, cam in cams.items()}
    write_pass(*rest, alone, outputs(tmp_path / "initial", "cam"))
    for folder, name in (("initial", "cam"), ("refined", "caa")):
        assert [file.name for file in (tmp_path / folder).iterdir()] == [f"{name}.npz"]
        both = (tmp_path / "both" / f"{name}.npz").read_bytes()
        assert (tmp_path / folder / f"{name}.npz").read_bytes() == both


@pytest.mark.parametrize("usual", [0, 2, 8])
@pytest.mark.parametrize("room", [107_000, 1 << 29])
def test_a_variant_has_the_same_bytes_in_any_company(job, tmp_path, monkeypatch, usual, room):
    """Whoever else is in the pass, and whether or not the models are deeper than usual."""
    for module in (backward, context):
        monkeypatch.setattr(module, "HELD", usual)
    monkeypatch.setitem(backward.BATCH_BYTES, "cpu", room)
    *rest, clip, texts, _ = job
    generator = torch.Generator().manual_seed(9)
    texts = texts | {
        "none": (directions(generator, 3), directions(generator, 0)),
        "many": (directions(generator, 3), directions(generator, 5)),
    }
    together = {
        f"{name}-{target}": CamVariant(
            name,
            SOFTMAX | {"target": target},
            {
                f"{name}-{target}-1": CAA | {"layers": 1},
                f"{name}-{target}-2": CAA | {"power": 3},
                f"{name}-{target}-all": CAA | {"layers": 3},
            },
        )
        for name in texts
        for target in TARGETS
    }
    found = dict(compute_pass(*rest, clip, texts, together))
    seen = set()
    for name, cam in together.items():
        for affinities in ({}, *({key: own} for key, own in cam.affinities.items())):
            alone = {name: CamVariant(cam.texts, cam.cam, affinities)}
            own_texts = {cam.texts: texts[cam.texts]}
            for id_, maps in compute_pass(*rest, clip, own_texts, alone):
                for key, image in maps.items():
                    assert np.array_equal(image.maps, found[id_][key].maps), (id_, key)
                    seen.add((id_, key))
    assert len(seen) == len(rest[1]) * len(together) * 4


def test_empty_shard(job, tmp_path):
    dataset, _, *rest = job
    paths = outputs(tmp_path, "cam", "caa")
    write_pass(dataset, [], *rest, paths)
    assert [read_maps(path) for path in paths.values()] == [[], []]


def test_bad_image_fails_or_is_listed(job, tmp_path):
    dataset = job[0]
    dataset.bad = {"a": "a.jpg: truncated"}
    paths = outputs(tmp_path, "cam", "caa")
    with pytest.raises(InputError, match=r"a\.jpg: truncated"):
        write_pass(*job, paths)
    assert not any(path.exists() for path in paths.values())
    dataset.settings["on_bad_image"] = "skip"
    write_pass(*job, paths)
    for path in paths.values():
        assert [image.id for image in read_maps(path)] == ["d", "c", "b", "e", "f"]
        skipped = read_skipped(path)
        assert skipped == {"a": "a.jpg: truncated"}


def test_finished_images_survive_a_crash(job, tmp_path, caplog):
    caplog.set_level("INFO")
    dataset, read = job[0], []

    def image(name):
        read.append(name)
        return TinyDataset.image(dataset, name)

    dataset.image = image
    whole, paths = (outputs(tmp_path / folder, "cam", "caa") for folder in ("whole", "crash"))
    write_pass(*job, whole, batch=2)
    order = list(read)  # grid by grid: b, a, then d, c, e, f in batches of two
    dataset.bad = {order[-1]: "truncated"}
    with pytest.raises(InputError), finished(paths["cam"], "plan", str) as kept:
        write_pass(*job, paths, batch=2, kept=kept)
    read.clear()
    dataset.bad = {}
    assert "goes on" not in caplog.text
    with finished(paths["cam"], "plan", str) as kept:
        write_pass(*job, paths, batch=2, kept=kept)
    assert read == order[-2:]  # the batch of the bad image
    assert "maps: goes on from 4 finished images" in caplog.text  # for the costs
    for name, path in paths.items():
        assert path.read_bytes() == whole[name].read_bytes()
    assert len([*paths["cam"].parent.iterdir()]) == len(paths)


def test_the_size_of_a_context_is_its_images():
    image = np.zeros((24, 33, 3), np.uint8)
    assert context.MapContext("x", image, (), None, None, None).size == (24, 33)


def test_what_is_kept_of_a_crash_runs_no_code():
    # FAULTS 21
    class Trap:
        def __reduce__(self):
            return os.abort, ()

    data = io.BytesIO()
    np.savez(data, size=[1, 1], keys=np.array([Trap()], object), scaled_down=False)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        passes._unpacked("a", data.getvalue())


def test_an_image_without_a_class_has_no_map(job, tmp_path):
    dataset, paths = job[0], outputs(tmp_path / "all", "cam", "caa")
    write_pass(*job, paths)
    dataset.classes["b"] = []
    fewer = outputs(tmp_path / "fewer", "cam", "caa")
    write_pass(*job, fewer)
    for name, path in fewer.items():
        for image, before in zip(read_maps(path), read_maps(paths[name]), strict=True):
            assert (image.id, image.size) == (before.id, before.size)
            if image.id == "b":
                assert image.keys.shape == (0,)
                assert image.maps.shape == (0, *before.maps.shape[1:])
            else:
                np.testing.assert_allclose(image.maps, before.maps, atol=5e-5)


@pytest.mark.parametrize(
    ("target", "method", "message"),
    [
        ("sigmoid", "caa", "must be one of logit, softmax, or .* got sigmoid"),
        (
            "softmax",
            "random-walk",
            "must be one of caa, cda, cosine, spectral, or .* got random-walk",
        ),
    ],
)
def test_unknown_names_are_refused(job, tmp_path, target, method, message):
    *rest, _ = job
    cam = SOFTMAX | {"target": target}
    cams = {"cam": CamVariant("own", cam, {"refined": CAA | {"method": method}})}
    with pytest.raises(InputError, match=message):
        write_pass(*rest, cams, outputs(tmp_path, "cam", "refined"))


def test_text_features_are_read_for_their_model(clip, tmp_path):
    generator = torch.Generator().manual_seed(0)
    foreground, background = directions(generator, 3), directions(generator, 0)
    np.savez(tmp_path / "own.npz", foreground=foreground, background=background)
    for read, wanted in zip(
        read_text_features(tmp_path / "own.npz", clip), (foreground, background), strict=True
    ):
        assert torch.equal(read, wanted)
    other = tmp_path / "other.npz"
    np.savez(other, foreground=np.zeros((3, 7), np.float32), background=np.zeros((2, 7)))
    with pytest.raises(InputError, match="width 7, the model's is 24"):
        read_text_features(other, clip)
    background = torch.full_like(foreground, torch.inf)
    np.savez(other, foreground=foreground, background=background)
    with pytest.raises(
        InputError, match=r"other\.npz: features hold NaN or infinity; make the texts"
    ):
        read_text_features(other, clip)


def test_a_new_target_and_affinity_are_one_function_each(job, tmp_path, monkeypatch):
    (tmp_path / "margins.py").write_text(
        "import clip_wsss\n"
        "class Amount(clip_wsss.Settings):\n"
        "    amount: float = 1.0\n"
        "def margin(logits, position, classes):\n"
        "    return logits[:, position] - logits[:, classes:].logsumexp(dim=-1)\n"
        "def share(logits, position, classes, settings: Amount):\n"
        "    return settings.amount * logits[:, position] - logits[:, -1]\n"
        "def blur(context, settings: Amount):\n"
        "    maps = context.maps\n"
        "    return maps.mean(dim=(1, 2), keepdim=True).expand_as(maps) + settings.amount * maps\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    *rest, _ = job
    cam = SOFTMAX | {"target": "margins:margin"}
    cams = {"cam": CamVariant("own", cam, {"blurred": {"method": "margins:blur", "amount": 0.5}})}
    paths = outputs(tmp_path, "cam", "blurred")
    write_pass(*rest, cams, paths)
    for initial, blurred in zip(*(read_maps(path) for path in paths.values()), strict=True):
        np.testing.assert_allclose(blurred.maps, initial.maps, atol=1e-5)
    share = SOFTMAX | {"target": "margins:share"}
    cams = {"own": share | {"share": {"amount": 3.0}}, "said": share | {"share": {"amount": 1.0}}}
    cams = {name: CamVariant("own", own) for name, own in (cams | {"default": share}).items()}
    for _, maps in compute_pass(*rest, cams):
        assert np.array_equal(maps["said"].maps, maps["default"].maps)
        assert np.abs(maps["own"].maps - maps["said"].maps).max() > 0.01


WORDY = """
import torch

seen = []

def spoken(context):
    sentences = [["a photo of a cat.", "a cat."], ["wall"]]
    features = context.text_features(sentences)
    assert torch.equal(features, context.tower.encode_texts(sentences))
    features.zero_()  # what one method changes is its own
    seen.append((context.id, context.names, context.background_names))
    if context.maps is not None:
        seen.append(context.tower_of("blind").names)
        context.tower_of("blind").text_features([["wall"]])
    return context.features.norm(dim=1).unflatten(0, context.grid).expand(len(context.keys), -1, -1)
"""


def test_a_method_has_the_words_and_other_sentences(job, tmp_path, monkeypatch):
    (tmp_path / "wordy.py").write_text(WORDY)
    monkeypatch.syspath_prepend(tmp_path)
    dataset, names, clip, texts, _ = job
    calls = []

    def encode_texts(items):
        calls.append(items)
        return directions(torch.Generator().manual_seed(0), len(items))

    monkeypatch.setattr(clip, "encode_texts", encode_texts)
    words = {"names": ["cat", "dog", "gnu"], "background_names": ["wall", "sky"]}
    cams = {"cam": CamVariant("own", {"method": "wordy:spoken"}, **words)}
    list(compute_pass(dataset, names, clip, texts, cams))
    seen = method("cam", "wordy:spoken").function.__globals__["seen"]
    nouns = words["names"]
    wanted = {id_: tuple(nouns[key] for key in keys) for id_, keys in dataset.classes.items()}
    assert {id_: own for id_, own, _ in seen} == wanted
    assert all(background == ("wall", "sky") for *_, background in seen)
    assert len(calls) == 1 + len(names), "the context asks once for all images"
    seen.clear()
    blind = SimpleNamespace(
        **{
            name: getattr(clip, name)
            for name in ("preprocess", "passed", "grid", "device", "mean", "std")
        }
    )
    cams = {"cam": CamVariant("own", SOFTMAX, {"own": {"method": "wordy:spoken"}}, **words)}
    with pytest.raises(InputError, match="text features: this tower has no texts; name a CLIP"):
        list(compute_pass(dataset, ["a"], clip, texts, cams, towers={"blind": blind}))
    assert seen[1] == ("dog",), "words stay where the tower has no texts"


GREEDY = """
import clip_wsss
import torch

def greedy(context):
    kept = context.maps.clone()
    context.maps.mul_(0)
    context.attention(-1).zero_()
    context.mean_attention(2).zero_()
    context.features.zero_()
    context.texts.zero_()
    context.background.zero_()
    for one in (context, context.view(0.5), context.view(1.0, True)):
        one.pixels.zero_()
        one.looked.pixels.zero_()
        one.looked.held.zero_()
        one.once("features", lambda: context.features * 0)
        one.once(("mean attention", 8), lambda: context.mean_attention(2) * 0)
        one.once("mine", lambda: 2.0)
        for stream in one.looked.streams:
            stream.zero_()
        one.looked.streams[-2:][0].zero_()
    return kept

def everything(context):
    found = context.maps * 0
    for one in (context, context.view(0.5), context.view(1.0, True)):
        found += one.pixels.mean() + sum(x.abs().mean() for x in one.looked.streams)
    found += context.features.std() + context.once("mine", lambda: 0.5)
    found += context.texts.std() + context.background.std() + float(context.image.mean()) / 255
    return context.initial_maps() ** (1 + found)  # no scale, which min-max would take out

def painting(context):
    context.image[:] = 0

def through_torch(context):
    torch.from_numpy(context.image).zero_()
    return context.maps

def unlocked(context):
    context.image.flags.writeable = True
    context.image[0, 0, 0] ^= 1
    return context.maps

def mean(context):
    context.tower.mean *= 2
    return context.maps

def deviation(context):
    context.tower.std = context.tower.std * 2
    return context.maps

def keys(context):
    context.keys.reverse()

def names(context):
    context.names.append("cat")

def towers(context):
    context.towers["own"] = context.tower

def replaced(context):
    context.looked.held = None

def learned_target(logits, position, classes):
    return logits

def a_mean(logits, position, classes):
    return logits[:, position].mean()

def column(logits, position, classes):
    return logits[:, position : position + 1]

def number(logits, position, classes):
    return 1.0

def constant(logits, position, classes):
    return torch.zeros(len(logits))

def own_weights(logits, position, classes):
    return torch.zeros(len(logits), requires_grad=True)

def detached(logits, position, classes):
    return logits[:, position].detach()

def whole(logits, position, classes):
    return logits[:, position].long()

def nan_target(logits, position, classes):
    return logits[:, position] * float("nan")

def steep(logits, position, classes):
    return (logits[:, position] * 0).sqrt()

def failing_target(logits, position, classes):
    return logits[:, 99]

def in_place(logits, position, classes):
    scores = logits[:, position].clone()
    logits.data.zero_()
    return scores

def undefined(context):
    return context.maps * float("nan")

def failing(context):
    raise KeyError("nothing here")

def learned(context):
    return context.maps.clone().requires_grad_() + 1

def flags(context):
    return context.maps > 0.5

def short(context):
    return context.maps[:, 1:]

def listed(context):
    return context.maps.tolist()
"""


def test_what_a_method_changes_is_its_own(job, tmp_path, monkeypatch):
    (tmp_path / "greedily.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    *rest, _ = job
    names = ("cam", "caa", "e")
    after = {"caa": CAA | {"layers": 8}, "e": {"method": "greedily:everything"}}
    wanted = dict(compute_pass(*rest, {"cam": CamVariant("own", SOFTMAX, after)}))
    both = {"cam": CamVariant("own", SOFTMAX, {"g": {"method": "greedily:greedy"}, **after})}
    for id_, maps in compute_pass(*rest, both):
        for name in names:
            most = 1e-5 if name == "e" else 0  # resized anew, in memory of another alignment
            np.testing.assert_allclose(
                maps[name].maps, wanted[id_][name].maps, rtol=0, atol=most, err_msg=name
            )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("undefined", r"greedily:undefined: \w: a map holds NaN or an infinity"),
        ("failing", r"greedily:failing: \w: KeyError: 'nothing here'"),
        ("painting", r"greedily:painting: \w: ValueError: assignment destination is read-only"),
        (
            "through_torch",
            r"greedily:through_torch: \w: changes context.image, which other methods",
        ),
        ("unlocked", r"greedily:unlocked: \w: changes context.image"),
        ("mean", r"greedily:mean: \w: changes tower.mean"),
        ("deviation", r"greedily:deviation: \w: changes tower.std"),
        ("keys", r"greedily:keys: \w: AttributeError: 'tuple'"),
        ("names", r"greedily:names: \w: AttributeError: 'tuple'"),
        ("towers", r"greedily:towers: \w: TypeError: 'mappingproxy'"),
        ("replaced", r"greedily:replaced: \w: \w*Error: "),
        ("short", r"own: must return a tensor \(3, 2, 6\) of maps; got \(3, 1, 6\)"),
        ("listed", r"own: must return a tensor \(\d, \d, \d\) of maps; got list"),
    ],
)
def test_what_goes_wrong_in_a_method_names_it_and_the_image(job, tmp_path, monkeypatch, name, line):
    (tmp_path / "greedily.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    dataset, ids, clip, texts, _ = job
    images = {id_: rgb.copy() for id_, rgb in dataset.images.items()}
    dataset = TinyDataset(images, dataset.classes)
    monkeypatch.setattr(clip, "mean", clip.mean.copy())
    monkeypatch.setattr(clip, "std", clip.std)
    cams = {"cam": CamVariant("own", SOFTMAX, {"own": {"method": f"greedily:{name}"}})}
    with pytest.raises(InputError, match=line):
        list(compute_pass(dataset, ids, clip, texts, cams))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("learned_target", r"must return \d scores \(B,\) made of the logits; got \(\d, \d\)"),
        ("a_mean", r"must return \d scores .*; got \(\)"),
        ("column", r"must return \d scores .*; got \(\d, 1\)"),
        ("number", r"must return \d scores .*; got float"),
        ("constant", "which a gradient goes through; got constants"),
        ("detached", "which a gradient goes through; got constants"),
        ("whole", "which a gradient goes through; got constants"),
        ("own_weights", "they do not depend on them"),
        ("nan_target", "a score or its gradient is NaN or an infinity"),
        ("steep", "a score or its gradient is NaN or an infinity"),
        ("failing_target", "IndexError: index 99"),
    ],
)
@pytest.mark.parametrize("scales", [[1.0], [1.0, 0.5]], ids=["batched", "by image"])
def test_a_target_that_gives_no_scores_is_one_line(job, tmp_path, monkeypatch, name, line, scales):
    (tmp_path / "greedily.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    *rest, _ = job
    cam = {"method": "gradcam", "target": f"greedily:{name}", "scales": scales}
    with pytest.raises(InputError, match=f"^greedily:{name}: target: .*{line}"):
        list(compute_pass(*rest, {"cam": CamVariant("own", cam)}))


def test_a_target_of_ones_own_gives_the_maps_of_the_shipped_one(job, tmp_path, monkeypatch):
    (tmp_path / "greedily.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    *rest, _ = job
    cam = {"method": "gradcam", "target": "logit"}
    own = {"method": "gradcam", "target": "greedily:in_place"}
    cams = {"cam": CamVariant("own", cam), "mine": CamVariant("own", own)}
    for _, maps in compute_pass(*rest, cams):
        np.testing.assert_array_equal(maps["cam"].maps, maps["mine"].maps)


@pytest.mark.parametrize("name", ["learned", "flags"])
def test_maps_of_any_kind_of_numbers_are_taken(job, tmp_path, monkeypatch, name):
    (tmp_path / "greedily.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    *rest, _ = job
    cams = {"cam": CamVariant("own", SOFTMAX, {"own": {"method": f"greedily:{name}"}})}
    for _, maps in compute_pass(*rest, cams):
        assert maps["own"].maps.dtype == np.float32


def test_a_large_image_is_scaled_down_and_counted(job, tmp_path, caplog):
    # FAULTS 17
    clip = job[2]
    before, after = (outputs(tmp_path / folder, "cam", "caa") for folder in "ab")
    write_pass(*job, before)
    most, clip.max_patches = clip.max_patches, 13
    write_pass(*job, after)
    clip.max_patches = most
    for name, path in after.items():
        for image, whole in zip(read_maps(path), read_maps(before[name]), strict=True):
            assert image.size == whole.size
            large = np.prod(whole.maps.shape[1:]) > 13
            assert image.scaled_down == large
            if large:
                assert image.maps.shape[1:] == (3, 4)  # of 4 x 5
            else:
                np.testing.assert_allclose(image.maps, whole.maps, atol=5e-5)
    assert "more than 13 patches (models.max_patches): 4 images: d (20 x 16), c (20" in caplog.text
    assert not any(image.scaled_down for image in read_maps(before["cam"]))


@pytest.mark.parametrize(
    ("grid", "most", "wanted"),
    [
        ((24, 32), 768, (24, 32)),
        ((240, 320), 8192, (78, 104)),
        ((1, 9000), 8192, (1, 8192)),
        ((9000, 1), 10, (10, 1)),
        ((3, 3), 1, (1, 1)),
        ((2, 100_000), 50, (1, 50)),
    ],
)
def test_a_capped_grid_keeps_the_shape(grid, most, wanted):
    assert capped(grid, most) == wanted


def test_an_image_that_would_not_fit_costs_itself_only(job, tmp_path, monkeypatch):
    # FAULTS 17
    dataset = job[0]
    dataset.images["a"] = np.zeros((400, 400, 3), np.uint8)
    monkeypatch.setattr("clip_wsss.core.memory.available", lambda device: 10**9)
    paths = outputs(tmp_path, "cam", "caa")
    line = r"a: 400 x 400 pixels are 90 x 90 patches, whose attention takes about \S+ GB of memory"
    with pytest.raises(InputError, match=line):
        write_pass(*job, paths)
    dataset.settings["on_bad_image"] = "skip"
    write_pass(*job, paths)
    assert [image.id for image in read_maps(paths["caa"])] == ["d", "c", "b", "e", "f"]
    assert read_skipped(paths["caa"])["a"].endswith(
        "1.0 GB are free; scale it down, leave it out, free memory, or lower max_patches of the "
        "model in a config"
    )


@pytest.mark.parametrize("most", [1, 2])
def test_a_batch_that_runs_out_of_memory_is_divided(job, tmp_path, monkeypatch, caplog, most):
    # FAULTS 17
    whole, divided = (outputs(tmp_path / folder, "cam", "caa") for folder in "ab")
    write_pass(*job, whole)

    def small(clip, batch, images, *rest):
        if len(images) > most or (most == 1 and images[0].id == "b"):
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        return class_maps(clip, batch, images, *rest)

    monkeypatch.setattr(backward, "class_maps", small)
    if most == 1:
        line = "b: 24 x 8 pixels are 2 x 6 patches, whose attention does not fit into memory; scale"
        with pytest.raises(InputError, match=line):
            write_pass(*job, divided)
    job[0].settings["on_bad_image"] = "skip"
    write_pass(*job, divided)
    assert "4 images together do not fit into memory; each half by itself" in caplog.text
    kept = {image.id: image for image in read_maps(divided["caa"])}
    assert list(kept) == [name for name in job[1] if name != "b" or most == 2]
    for image in read_maps(whole["caa"]):
        if image.id in kept:
            np.testing.assert_allclose(kept[image.id].maps, image.maps, atol=5e-5)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_a_batch_that_cannot_be_put_together_is_divided(job, tmp_path, monkeypatch, caplog, error):
    whole, divided = (outputs(tmp_path / folder, "cam", "caa") for folder in "ab")
    write_pass(*job, whole)
    stack = torch.stack

    def small(tensors, *rest, **more):
        if len(tensors) > 2 and tensors[0].ndim == 3 and tensors[0].shape[0] == 3:
            raise error
        return stack(tensors, *rest, **more)

    monkeypatch.setattr(torch, "stack", small)
    write_pass(*job, divided)
    assert "4 images together do not fit into memory; each half by itself" in caplog.text
    images = [{one.id: one for one in read_maps(paths["caa"])} for paths in (whole, divided)]
    assert list(images[0]) == list(images[1]) == job[1]
    for name, image in images[0].items():
        np.testing.assert_allclose(images[1][name].maps, image.maps, atol=5e-5)


def test_an_image_whose_pixels_do_not_fit_costs_itself_only(job, tmp_path, monkeypatch):
    dataset, ids, clip, *_ = job
    prepare = clip.preprocess

    def full(rgb):
        if rgb.shape == dataset.images["b"].shape and (rgb == dataset.images["b"]).all():
            raise MemoryError
        return prepare(rgb)

    monkeypatch.setattr(clip, "preprocess", full)
    paths = outputs(tmp_path, "cam", "caa")
    with pytest.raises(InputError, match="b: the image does not fit into memory; scale it d"):
        write_pass(*job, paths)
    dataset.settings["on_bad_image"] = "skip"
    write_pass(*job, paths)
    assert [one.id for one in read_maps(paths["caa"])] == [one for one in ids if one != "b"]


def test_a_view_is_of_the_image_and_a_tower_sees_the_view(clip):
    rgb = photographs(torch.Generator().manual_seed(0), 1, (6, 4))[0]
    looked = context.look(clip, clip.preprocess(rgb)[None], context.HELD)[0]
    towers = {"other": clip}
    seen = context.MapContext("a", rgb, [0], torch.zeros(1, 24), None, looked, towers=towers)
    assert seen.view(0.5).view(1.0).looked is looked
    assert seen.view(0.5).view(1.0, True).grid == (6, 4)
    view = seen.view(0.5, True)
    assert view.grid == (3, 2)
    for one in (view.tower_of("other"), seen.tower_of("other").view(0.5, True)):
        assert one.texts is None
        torch.testing.assert_close(one.pixels, view.pixels, rtol=0, atol=0)
        assert one.view().looked is seen.tower_of("other").looked
    assert view.tower_of("other").looked is seen.tower_of("other").view(0.5, True).looked
    assert seen.tower_of("other").looked is not looked


@pytest.mark.parametrize("block", [1.5, None, 3, -4])
def test_a_block_or_a_number_of_blocks_that_cannot_be_is_one_line(clip, block):
    pixels = clip.preprocess(photographs(torch.Generator(), 1, (2, 2))[0])
    seen = context.MapContext("a", None, [0], None, None, context.look(clip, pixels[None], 8)[0])
    with pytest.raises(
        InputError, match=rf"attention: block {block} must be from -3, the first, to 2, the last"
    ):
        seen.attention(block if block != 3 else clip.layers)
    for layers in (0, -1, 1.5):
        with pytest.raises(InputError, match=f"layers must be an integer of .* 1; got {layers}"):
            seen.mean_attention(layers)


def test_more_attention_maps_than_the_tower_has_blocks_are_refused(job, tmp_path):
    # FAULTS 10: of a tower with fewer than 8 blocks, up to 8 mean all
    *rest, _ = job
    for layers, wanted in ((8, None), (9, "attention of 9 blocks is asked for, and the tower has")):
        cams = {"cam": CamVariant("own", SOFTMAX, {"caa": CAA | {"layers": layers}})}
        if wanted is None:
            write_pass(*rest, cams, outputs(tmp_path, "cam", "caa"))
        else:
            with pytest.raises(InputError, match=wanted):
                write_pass(*rest, cams, outputs(tmp_path, "cam", "caa"))
