"""Sharpness, the choice of a template, and the files of texts."""

import csv
import json

import numpy as np
import pytest
import torch
from clip_cases import make_openai_state_dict, random_clip, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_wsss.core.errors import InputError
from clip_wsss.prompts import texts as prompts
from clip_wsss.prompts.texts import (
    read_templates,
    sharpness,
    text_features,
    write_image_features,
    write_texts,
)

SCORES = np.array([[0.6, 0.2, 0.2], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
PRESENT = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], dtype=bool)


def test_sharpness_by_hand():
    """Image 1: mean 0.4, variance 0.04. Image 2: mean 1/3, variance 0.26/9. Image 3: 0.8, 0."""
    second = np.mean((np.array([0.5, 0.4, 0.1]) - 1 / 3) ** 2)
    total = 0.4 + 1 / 3 + 0.8
    assert sharpness(SCORES, PRESENT) == pytest.approx((0.04 + second) / total)
    deviation = sharpness(SCORES, PRESENT, "deviation")
    assert deviation == pytest.approx((0.2 + second**0.5) / total)


def test_balanced_scores_are_best():
    balanced = np.array([[0.5, 0.5, 0]])
    assert sharpness(balanced, PRESENT[:1]) == 0
    assert sharpness(SCORES[:1], PRESENT[:1]) > 0


def test_an_image_with_one_class_adds_to_the_mean_only():
    alone = sharpness(SCORES[:1], PRESENT[:1])
    both = sharpness(SCORES[[0, 2]], PRESENT[[0, 2]])
    assert both == pytest.approx(alone * 0.4 / 1.2)


def test_sharpness_of_nothing():
    assert sharpness(np.zeros((2, 3)), np.ones((2, 3), bool)) == float("inf")
    with pytest.raises(InputError, match="no image"):
        sharpness(np.zeros((0, 3)), np.zeros((0, 3), bool))
    with pytest.raises(InputError, match="range is unknown; known are variance, deviation"):
        sharpness(SCORES, PRESENT, "range")


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6))
def test_sharpness_equals_its_twin(seed, images, classes):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(classes), images)
    present = rng.random((images, classes)) < 0.5
    present[np.arange(images), rng.integers(0, classes, images)] = True
    for spread, function in (("variance", np.var), ("deviation", np.std)):
        above = sum(function(row[there]) for row, there in zip(scores, present, strict=True))
        below = sum(np.mean(row[there]) for row, there in zip(scores, present, strict=True))
        assert sharpness(scores, present, spread) == pytest.approx(above / below)


CLASSES = ("cat", "dog", "sheep")
TEMPLATES = ["a photo of a {}.", "the {}", "a photo of a {}.", "art of {}"]


class Photographs:
    """Random images with classes, and the settings that prompts look at."""

    def __init__(self, on_bad_image="fail"):
        rng = np.random.default_rng(0)
        shapes = [(20, 20), (13, 22), (20, 20), (8, 30), (20, 18)]
        self.images = {
            f"i{number}": rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
            for number, shape in enumerate(shapes)
        }
        self.classes = dict(zip(self.images, ([0, 1], [2], [1, 2, 0], [0], [2, 1]), strict=True))
        self.bad: set[str] = set()
        self.settings = {"on_bad_image": on_bad_image}

    def ids(self, split):
        return list(self.images)

    def labels(self, name):
        return self.classes[name]

    def size(self, name):
        return self.images[name].shape[:2]

    def image(self, name):
        if name in self.bad:
            raise InputError(f"{name}.jpg: truncated")
        return self.images[name]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    config = small_config()
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 16}
    return random_clip(tmp_path_factory.mktemp("clip"), config, make_openai_state_dict(config, 1))


def entry(**changes):
    """A texts entry, resolved."""
    return {
        "template": "sharpest",
        "templates": TEMPLATES,
        "score": "cls",
        "spread": "variance",
        "names": {c: c for c in CLASSES},
        "ranked_names": {c: c for c in CLASSES},
        "background": ["sky", "grass"],
    } | changes


def run(clip, tmp_path, entry, dataset, features, folder="out"):
    out = [tmp_path / folder / name for name in ("text_features.npz", "prompt.json", "s.csv")]
    write_texts(entry, clip, dataset, "train", features, *out)
    with np.load(out[0]) as texts:
        return dict(texts), json.loads(out[1].read_text()), list(csv.DictReader(out[2].open()))


def test_image_features(clip, tmp_path, caplog):
    dataset = Photographs()
    caplog.set_level("INFO")
    write_image_features(dataset, "train", clip, tmp_path / "a.npz")
    assert f"image features: {len(dataset.images)} images in " in caplog.text
    write_image_features(dataset, "train", clip, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as file:
        assert file["ids"].tolist() == list(dataset.images)
        for row, rgb in enumerate(dataset.images.values()):
            cls = clip.cls_features(clip.preprocess_ordinary(rgb)[None])
            patches = clip.patch_features(clip.preprocess(rgb)[None])
            np.testing.assert_allclose(file["cls"][row], cls[0], atol=1e-5)
            np.testing.assert_allclose(file["patches"][row], patches[0], atol=1e-5)


def test_bad_images_of_the_ranking(clip, tmp_path):
    dataset = Photographs()
    dataset.bad = {"i1"}
    with pytest.raises(InputError, match=r"i1\.jpg: truncated"):
        write_image_features(dataset, "train", clip, tmp_path / "f.npz")
    dataset.settings["on_bad_image"] = "skip"
    write_image_features(dataset, "train", clip, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as file:
        assert file["ids"].tolist() == ["i0", "i2", "i3", "i4"]
        assert file["skipped"].tolist() == ["i1"]
        assert file["reasons"].tolist() == ["i1.jpg: truncated"]
    _, prompt, _ = run(clip, tmp_path, entry(), dataset, tmp_path / "f.npz")
    assert prompt["chosen_by"] == "sharpness"


def test_an_image_without_a_class_ranks_nothing(clip, tmp_path):
    dataset = Photographs()
    dataset.classes["i1"] = []
    write_image_features(dataset, "train", clip, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as file:
        assert file["ids"].tolist() == ["i0", "i2", "i3", "i4"]
        assert file["reasons"].tolist() == ["has no class, so it ranks nothing"]
    _, prompt, _ = run(clip, tmp_path, entry(), dataset, tmp_path / "f.npz")
    assert prompt["chosen_by"] == "sharpness"


@pytest.mark.parametrize("score", ["cls", "patches"])
@pytest.mark.parametrize("spread", ["variance", "deviation"])
def test_the_sharpest_template_is_chosen(clip, tmp_path, score, spread):
    dataset = Photographs()
    features = tmp_path / "f.npz"
    write_image_features(dataset, "train", clip, features)
    settings = entry(score=score, spread=spread)
    texts, prompt, rows = run(clip, tmp_path, settings, dataset, features)
    with np.load(features) as file:
        images = torch.from_numpy(file[score])
    present = np.zeros((5, 3), bool)
    for row, keys in zip(present, dataset.classes.values(), strict=True):
        row[keys] = True
    expected = {}
    for template in ("a photo of a {}.", "the {}", "art of {}"):
        names = clip.encode_texts([[template.format(name)] for name in CLASSES])
        logits = clip.logit_scale * images @ names.T
        expected[template] = sharpness(logits.softmax(dim=-1).numpy(), present, spread)
    best = min(expected, key=expected.get)
    assert prompt["template"] == [best]
    assert prompt["chosen_by"] == "sharpness"
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert float(row["sharpness"]) == pytest.approx(expected[row["template"]], rel=1e-4)
    values = [float(row["sharpness"]) for row in rows]
    assert values == sorted(values)
    names = clip.encode_texts([[best.format(name)] for name in CLASSES])
    np.testing.assert_allclose(texts["foreground"], names, atol=1e-6)


def test_ties_go_to_the_first_of_the_list(clip, tmp_path, monkeypatch):
    features = tmp_path / "f.npz"
    write_image_features(Photographs(), "train", clip, features)
    monkeypatch.setattr(prompts, "sharpness", lambda *_: 1.0)
    _, prompt, rows = run(clip, tmp_path, entry(), Photographs(), features)
    assert prompt["template"] == ["a photo of a {}."]
    assert [row["template"] for row in rows][1:] == ["the {}", "a photo of a {}.", "art of {}"]


def test_files_of_the_sharpest_template(clip, tmp_path):
    features = tmp_path / "f.npz"
    write_image_features(Photographs(), "train", clip, features)
    names = {c: f"{c},animal" for c in CLASSES}
    settings = entry(templates=["a {}"], names=names)
    texts, prompt, rows = run(clip, tmp_path, settings, Photographs(), features)
    assert prompt == {
        "template": ["a {}"],
        "names": names,
        "background": ["sky", "grass"],
        "chosen_by": "sharpness",
    }
    assert list(prompt["names"]) == list(CLASSES)
    assert [(row["rank"], row["template"]) for row in rows] == [("1", "a {}")]
    expected = clip.encode_texts([[f"a {c},animal"] for c in CLASSES])
    np.testing.assert_allclose(texts["foreground"], expected, atol=1e-6)
    np.testing.assert_allclose(texts["background"], clip.encode_texts([["a sky"], ["a grass"]]))
    run(clip, tmp_path, settings, Photographs(), features, folder="again")
    for file in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_templates_are_averaged_and_words_may_be_none(clip):
    foreground, background = text_features(clip, ["a {}", "the {}"], CLASSES, [])
    expected = clip.encode_texts([[f"a {c}", f"the {c}"] for c in CLASSES])
    np.testing.assert_allclose(foreground, expected, atol=1e-6)
    assert background.shape == (0, 24)
    foreground, background = text_features(clip, ["a {}"], CLASSES, ["sky"])
    np.testing.assert_allclose(foreground, clip.encode_texts([[f"a {c}"] for c in CLASSES]))
    np.testing.assert_allclose(background, clip.encode_texts([["a sky"]]))


def test_one_feature_for_all_classes_is_refused(clip, monkeypatch):
    # FAULTS 3
    same = lambda texts: torch.ones(len(texts), 24) / 24**0.5  # noqa: E731
    monkeypatch.setattr(type(clip), "encode_texts", lambda self, texts: same(texts))
    with pytest.raises(InputError, match="gives every class the same feature; replace the weights"):
        text_features(clip, ["a {}"], CLASSES, [])
    assert text_features(clip, ["a {}"], CLASSES[:1], [])[0].shape == (1, 24)


@pytest.mark.parametrize(
    ("templates", "match"),
    [
        (["no place"], "template: `no place` should hold {} once"),
        (["a {} and a {}"], "template: `a {} and a {}` should hold {} once"),
        ([], "template: holds no template"),
    ],
)
def test_bad_templates(clip, tmp_path, templates, match):
    with pytest.raises(InputError, match=match):
        text_features(clip, templates, CLASSES, [])
    ranked = entry(templates=templates)
    with pytest.raises(InputError, match=match.replace("template:", "templates:")):
        run(clip, tmp_path, ranked, Photographs(), tmp_path / "f.npz")


def test_bad_rankings(clip, tmp_path):
    features = tmp_path / "f.npz"
    write_image_features(Photographs(), "train", clip, features)
    for changes, match in (
        ({"score": "eyes"}, "score: eyes is unknown; known are cls, patches"),
        ({"spread": "range"}, "spread: range is unknown"),
    ):
        with pytest.raises(InputError, match=match):
            run(clip, tmp_path, entry(**changes), Photographs(), features)
    fewer = Photographs()
    del fewer.images["i0"]
    with pytest.raises(InputError, match="of other images"):
        run(clip, tmp_path, entry(), fewer, features)


def test_template_files(tmp_path):
    path = tmp_path / "t.txt"
    with pytest.raises(InputError, match=r"there is no file .*t\.txt"):
        read_templates(path)
    path.write_text("# ranked\na photo of a {}.\n\nthe {}\na photo of a {}.\nart of {}\n")
    assert read_templates(path) == TEMPLATES
    path.write_text("a {} and a {}\n")
    with pytest.raises(InputError, match=r"t\.txt: `a {} and a {}` should hold {} once"):
        read_templates(path)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="holds no template"):
        read_templates(path)
