"""TagCLIP by known answers and by slow twins; its tags written, read back and scored."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_cases import make_openai_state_dict, random_clip, random_context, small_config
from PIL import Image
from stand_ins import CAT, box, jpeg, xml

from clip_wsss.affinities.box_rule import box_mask
from clip_wsss.core.errors import InputError
from clip_wsss.core.finished import Finished, finished
from clip_wsss.core.images import encode_label
from clip_wsss.data.annotations import read_labels_csv
from clip_wsss.data.datasets import open_dataset
from clip_wsss.score.tags import measure_tags, tag_rates
from clip_wsss.tags.tagclip import (
    TagClipSettings,
    patch_scores,
    spread_tags,
    tagclip,
    tags,
    voted_attention,
)
from clip_wsss.tags.write import join_tags, write_tags

GRID = (4, 6)
NAMED = {"model": "m", "texts": "t"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    config = small_config()
    return random_clip(tmp_path_factory.mktemp("clip"), config, make_openai_state_dict(config, 1))


@pytest.fixture(scope="module")
def context(clip):
    """An image of 4 x 6 patches, three classes and two background words."""
    return random_context(clip, range(3), 3)


def settings(**changed):
    return TagClipSettings(**{**NAMED, "layers": 1, "votes": 0, **changed})


def test_patch_scores_equal_open_clips_block_in_which_each_token_sees_itself(clip, context):
    x = context.looked.streams[-1]
    alone = torch.full((x.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    with torch.no_grad():
        tokens = clip.visual.transformer.resblocks[-1](x, attn_mask=alone)
        features = F.normalize(clip.visual.ln_post(tokens[0, 1:]) @ clip.visual.proj, dim=-1)
    texts = torch.cat([context.texts, context.background])
    right = (clip.logit_scale * features @ texts.T).softmax(dim=1)
    torch.testing.assert_close(patch_scores(context), right, rtol=1e-4, atol=1e-5)


def fake(*attention):
    """A tower of one block more than there are maps, on a grid of two patches."""
    maps = [torch.tensor(one) for one in attention]
    tower = SimpleNamespace(layers=len(maps) + 1, device="cpu")
    return SimpleNamespace(tower=tower, grid=(1, 2), attention=lambda block: maps[block])


def test_blocks_vote_by_their_own_means():
    seen = fake([[0.9, 0.1], [0.4, 0.2]], [[0.2, 0.8], [0.3, 0.1]])
    # Above the means 0.4 and 0.35: (0, 0) and, in the second, (0, 1); the last block's is I.
    mean = torch.tensor([[0.55, 0.45], [0.35, 0.15]])
    for votes, kept in (
        (0, [[1, 1], [1, 1]]),
        (1, [[1, 1], [0, 1]]),
        (2, [[1, 0], [0, 0]]),
        (3, [[0, 0], [0, 0]]),
    ):
        found = voted_attention(seen, settings(layers=2, votes=votes))
        torch.testing.assert_close(found, mean * torch.tensor(kept))
    last = voted_attention(seen, settings(layers=1))
    torch.testing.assert_close(last, torch.tensor([[0.2, 0.8], [0.3, 0.1]]))


@pytest.mark.parametrize("changed", [{"layers": 3}, {"votes": 4}])
def test_more_blocks_than_there_are(changed):
    with pytest.raises(InputError, match=r"dataset\.tagclip: layers must be below the 3 blocks"):
        voted_attention(fake([[1.0]], [[1.0]]), settings(**changed))


def test_a_hot_quadrant_keeps_its_scores_alone():
    grid, scores = (4, 4), torch.full((4, 4), 0.1)
    scores[:2, 2:] = 0.9
    found = spread_tags(scores.reshape(16, 1), torch.eye(16), grid, "full").reshape(grid)
    assert (found[:2, 2:] == 0.9).all()
    assert found.sum() == pytest.approx(4 * 0.9)


@pytest.mark.parametrize("edge", ["full", "clamp"])
def test_spread_equals_masked_columns_one_class_after_the_other(edge):
    generator = torch.Generator().manual_seed(3)
    scores, attention = (torch.rand(24, n, generator=generator) for n in (5, 24))
    right = torch.empty_like(scores)
    for one in range(5):
        own = (attention @ scores[:, one]).reshape(GRID)
        own = ((own - own.min()) / (own.max() - own.min())).numpy()
        mask = torch.from_numpy(box_mask(own, own.mean(), edge).reshape(-1))
        for row in range(24):
            right[row, one] = (attention[row] * mask * scores[:, one]).sum()
    torch.testing.assert_close(spread_tags(scores, attention, GRID, edge), right)


def test_cls_sees_the_patches_that_it_may(clip):
    batch = torch.randn(
        2, 3, *(side * patch for side, patch in zip(clip.native, clip.patch, strict=True))
    )
    seen = torch.rand(2, clip.native[0] * clip.native[1]) > 0.5
    mask = torch.zeros(2, clip.heads, seen.shape[1] + 1, seen.shape[1] + 1)
    mask[:, :, 0, 1:] = torch.where(seen, 0.0, -torch.inf)[:, None]
    with torch.no_grad():
        x = clip._embed(batch)
        for block in clip.visual.transformer.resblocks:
            x = block(x, attn_mask=mask.flatten(0, 1))
        right = F.normalize(clip.visual.ln_post(x[:, 0]) @ clip.visual.proj, dim=-1)
    torch.testing.assert_close(clip.cls_features(batch, seen), right, rtol=1e-4, atol=1e-5)
    every = clip.cls_features(batch, torch.ones_like(seen))
    torch.testing.assert_close(every, clip.cls_features(batch), rtol=1e-4, atol=1e-5)


class TwoHalves:
    """A tower of known features: the left half of 4 x 4 patches is class 0, the right class 2.

    A crop is of class 0 if its pixels are dark; the tower notes what it is shown.
    """

    layers, patch, native, logit_scale, device, dtype = (
        2,
        (2, 2),
        (2, 2),
        50.0,
        "cpu",
        torch.float32,
    )
    held = torch.eye(16)[None]

    def __init__(self):
        self.shown = []

    def rebuilt_patches(self, x, mix, residual, ffn):
        assert residual
        assert ffn
        assert mix("q", "k", "v") == "v"
        left = torch.arange(16) % 4 < 2
        return torch.where(left[:, None], torch.eye(4)[0], torch.eye(4)[2])[None]

    def cls_features(self, crops, seen):
        self.shown = list(zip(crops, seen, strict=True))
        return torch.stack([torch.eye(4)[0 if crop.mean() < 0.5 else 1] for crop in crops])


def halves(**changed):
    tower, pixels = TwoHalves(), torch.zeros(3, 8, 8)
    pixels[:, :, 4:] = 1
    looked = SimpleNamespace(tower=tower, pixels=pixels, grid=(4, 4), streams=[None])
    seen = SimpleNamespace(
        tower=tower, looked=looked, grid=(4, 4), keys=range(3), texts=torch.eye(4)[:3],
        background=torch.eye(4)[3:], attention=lambda block: torch.eye(16),
    )  # fmt: skip
    return tower, tagclip(seen, settings(**changed))


def test_orthogonal_directions_are_told_apart():
    _, scores = halves(crops=0)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0, 1]), rtol=0, atol=1e-6)
    assert tags(scores.numpy(), 0.5) == [0, 2]


def test_a_class_is_looked_at_again_in_its_own_box():
    tower, scores = halves(crops=0.25)
    # Class 0's crop is recognised, class 2's is taken for class 1.
    torch.testing.assert_close(scores, torch.tensor([1.0, 0, 0.75]), rtol=0, atol=1e-6)
    (left, seen), (right, _) = tower.shown
    assert left.shape == (3, 4, 4)
    assert (left == 0).all()
    assert (right == 1).all()
    assert seen.tolist() == [True] * 4
    # As in the public code: no last column, so what touches it is cut smaller.
    tower, _ = halves(crops=0.25, box_edge="clamp")
    assert len(tower.shown) == 2


def test_tags_by_hand():
    assert tags(np.array([0.1, 0.5, 0.9, 0.51]), 0.5) == [2, 3]  # 0.5 itself is not above
    assert tags(np.array([0.1, 0.5, 0.9, 0.51]), 0.25) == [1, 2, 3]
    assert tags(np.array([0.3, 0.3]), 0.5) == [0]


def test_rates_of_tags_by_hand():
    predicted = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    true = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
    scores = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.1, 0.6, 0.1]])
    found = tag_rates(predicted, true, scores)
    assert (found["precision"], found["recall"], found["f1"]) == (3 / 4, 3 / 4, 3 / 4)
    assert found["ap"] == [1.0, (1 / 2 + 2 / 3) / 2, None]
    assert found["map"] == pytest.approx((1 + 7 / 12) / 2)
    assert (found["hits"], found["alarms"], found["misses"]) == ([2, 1, 0], [0, 1, 0], [0, 1, 0])
    assert tag_rates(predicted & False, true & False, scores)["precision"] is None


def test_average_precision_of_ties_and_of_three_classes():
    """Of equal scores the image that comes first ranks first; the mean is no median."""
    true = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 0]], bool)
    scores = np.array([[0.5, 0.9, 0.1], [0.5, 0.8, 0.2], [0.5, 0.7, 0.3]])
    found = tag_rates(true, true, scores)
    assert found["ap"] == [1.0, 1 / 3, (1 / 2 + 2 / 3) / 2]
    assert found["map"] == pytest.approx((1 + 1 / 3 + 7 / 12) / 3)


def test_what_is_written_is_read_as_labels(clip, tmp_path):
    vocabulary = tmp_path / "v.yaml"
    vocabulary.write_text("classes: [cat, dog, bus]\nnames: {}\nbackgrounds: {}\n")
    for name in ("a", "b"):
        Image.fromarray(np.full((9, 13, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    own = settings().model_dump()
    made = {
        "name": "x", "source": "images", "root": str(tmp_path), "vocabulary": str(vocabulary),
        "labels": "tagclip", "tagclip": own, "size": "image", "on_bad_image": "skip", "masks": None,
    }  # fmt: skip
    data = open_dataset(made)
    with pytest.raises(InputError, match="the labels are still to be predicted"):
        data.labels("a")
    texts = F.normalize(torch.randn(5, 24), dim=-1).split([3, 2])
    files, shard = (tmp_path / "labels.csv", tmp_path / "scores.csv"), tmp_path / "1.csv"
    write_tags(data, ["a", "bad", "b"], clip, texts, settings(), shard)
    join_tags([shard], settings(), *files)
    labels = read_labels_csv(files[0])
    assert sorted(labels) == ["a", "b"]
    read = open_dataset({**made, "labels": str(files[0])})
    lines = files[1].read_text().splitlines()
    assert lines[0] == "image,cat,dog,bus"
    for line in lines[1:]:
        name, *scores = line.split(",")
        assert read.labels(name) == tags(np.array(scores, np.float32), 0.5)
    with pytest.raises(InputError, match="has no row"):
        read.labels("bad")
    # Shards give the same bytes, and what an earlier job finished is not made again.
    shards, store = [tmp_path / "1of2.csv", tmp_path / "2of2.csv"], tmp_path / "2of2"
    write_tags(data, ["a"], clip, texts, settings(), shards[0])
    data.settings["on_bad_image"] = "fail"
    with finished(store, "plan", data.version) as kept:
        with pytest.raises(InputError, match=r"bad\.png"):
            write_tags(data, ["b", "bad"], clip, texts, settings(), shards[1], kept)
        assert not shards[1].exists()
        broken = SimpleNamespace(device="cpu")
        write_tags(
            data,
            ["b"],
            broken,
            texts,
            settings(),
            shards[1],
            Finished(kept._file, "plan", data.version),
        )
    again = tmp_path / "again.csv", tmp_path / "again_scores.csv"
    join_tags(shards, settings(), *again)
    assert [one.read_bytes() for one in again] == [one.read_bytes() for one in files]


def test_labels_of_shards_are_those_of_the_scores_as_they_were(tmp_path):
    # Half of the range, and a step of float32 above: only that is a tag; in float64 both would be.
    low, high = np.float32(0.2), np.float32(0.9)
    half = low + 0.5 * (high - low)
    scores = np.array([low, half, np.nextafter(half, high), high], np.float32)
    assert tags(scores, 0.5) == [2, 3]
    shard = tmp_path / "1.csv"
    shard.write_text("image,a,b,c,d\nx," + ",".join(f"{one:.9g}" for one in scores) + "\n")
    join_tags([shard], settings(), tmp_path / "labels.csv", tmp_path / "scores.csv")
    assert (tmp_path / "labels.csv").read_text() == "image,labels\nx,c;d\n"
    assert (tmp_path / "scores.csv").read_bytes() == shard.read_bytes()


@pytest.mark.parametrize(("truth", "hits"), [(None, 2), ("xml", 1), ("true.csv", 1)])
def test_tags_are_scored_by_what_is_true(tmp_path, monkeypatch, truth, hits):
    monkeypatch.chdir(tmp_path)
    files = {
        "JPEGImages/a.jpg": jpeg(1),
        "JPEGImages/b.jpg": jpeg(1),
        "Annotations/a.xml": xml("dog"),
        "Annotations/b.xml": xml("dog"),
        "ImageSets/Segmentation/train.txt": b"a\nb\nmissing\n",
        "true.csv": b"image,labels\na,dog\nb,bus\n",
        "labels.csv": b"image,labels\na,dog\nb,cat;car\n",
        "scores.csv": b"image,cat,dog,bus,car\na,0.1,0.9,0,0\nb,0.9,0.1,0,0.8\n",
        "words.yaml": b"classes: [cat, dog, bus, car]\nnames: {}\nbackgrounds: {}\n",
    }
    (tmp_path / "SegmentationClass").mkdir()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for name, value in (("a", 2), ("b", 1)):  # as this vocabulary numbers them
        mask = np.where(box(CAT) > 0, np.uint8(value), np.uint8(0))
        (tmp_path / f"SegmentationClass/{name}.png").write_bytes(encode_label(mask))
    data = open_dataset(
        {
            "name": "own", "source": "folder", "root": ".", "vocabulary": "words.yaml",
            "labels": "labels.csv", "tagclip": {"truth": truth}, "size": "xml",
            "masks": "SegmentationClass",
        }
    )  # fmt: skip
    measure_tags(data, "train", tmp_path / "scores.csv", tmp_path / "score.json")
    found = json.loads((tmp_path / "score.json").read_text())
    assert (found["images"], found["skipped"]) == (2, ["missing"])
    assert found["truth"] == (truth or "masks")
    assert found["precision"] == hits / 3
    assert found["recall"] == hits / 2
    assert found["classes"]["dog"]["ap"] == 1
    assert found["classes"]["car"] == {"hits": 0, "alarms": 1, "misses": 0, "ap": None}
