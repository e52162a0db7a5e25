"""Losses, batches and the training of the demo CLIP."""

import csv
import dataclasses
import random
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from clip_wsss.core.errors import InputError
from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo import batches, train
from clip_wsss.demo.batches import Phase, make_batch
from clip_wsss.demo.captions import Text, TokenTable, concept_prompts, read_lexicon
from clip_wsss.demo.losses import Words, attention_loss, contrast, dense
from clip_wsss.demo.network import encode_images, new_clip
from clip_wsss.models.clip import load_clip

ROOT = Path(__file__).parents[3]
PHASE = Phase(side=112, kept=98, typical=75, unnamed=50, mosaics=60)


NATURAL = dataclasses.replace(PHASE, world=2, usual=True)
MAN, WOMAN = (f"1f6b6-200d-{sign}-fe0f" for sign in ("2642", "2640"))


@lru_cache
def read(name):
    return read_lexicon(
        ROOT / "config/templates/imagenet20.txt",
        read_vocabulary(ROOT / "config/vocabularies/voc12.yaml"),
        world=2 if name == "natural" else 1,
    )


@pytest.fixture(scope="module")
def lexicon():
    return read("even")


@pytest.fixture(scope="module")
def table(lexicon):
    return TokenTable(lexicon)


@pytest.fixture(scope="module")
def batch(lexicon, table):
    return make_batch(lexicon, table, PHASE, 12, (0, 5, 0))


def tensors(batch):
    fields = {**vars(batch), **vars(batch.words)}
    return {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}


def words(**fields):
    """Two tokens that show concepts 0 and 1, four concepts, one cell."""
    default = {
        "positives": torch.ones(1, 1, dtype=torch.bool),
        "allowed": torch.tensor([[[True, True, False, False]] * 2]),
        "shown": torch.tensor([[[True, True, False, False]] * 2]),
        "slot_concept": torch.tensor([[0, 1]]),
        "slot_tokens": torch.ones(1, 2, 2, dtype=torch.bool),
        "slot_top": torch.tensor([[1, 1]]),
        "placed": torch.ones(1, 2, dtype=torch.bool),
    }
    return Words(**{**default, **fields})


def test_contrast_of_a_known_pair():
    scores = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    gaps = np.log1p(np.exp(np.array([-1 - 2, 0 - 3, 0 - 2, -1 - 3])))
    expected = (gaps[:2].mean() + gaps[2:].mean()) / 2
    assert contrast(scores, torch.eye(2, dtype=torch.bool)).item() == pytest.approx(expected, 1e-5)


def test_contrast_averages_over_several_positives():
    scores = torch.tensor([[4.0, 1.0, -2.0]])
    truth = torch.tensor([[True, True, False]])
    rows = np.log1p(np.exp(np.array([-2 - 4, -2 - 1]))).mean()
    assert contrast(scores, truth).item() == pytest.approx(rows / 2, abs=1e-4)


def test_dense_loss_vanishes_where_every_patch_shows_a_named_concept():
    logits = torch.tensor([[[30.0, 0, 0, 0], [0, 30.0, 0, 0]]])
    assert dense(logits, words()).item() == pytest.approx(0, abs=1e-5)


def test_part_counts_mass_on_unnamed_concepts_and_cover_what_is_missing():
    logits = torch.tensor([[[30.0, 0, 0, 0], [30.0, 0, 0, 0]]])
    unseen = dense(logits, words()).item()
    assert unseen == pytest.approx(-np.log(1e-6) / 2, rel=1e-4)  # concept 1 is shown nowhere
    even = torch.zeros(1, 2, 4)
    assert dense(even, words()).item() == pytest.approx(np.log(2) + np.log(4), rel=1e-5)


def test_affinity_loss_prefers_attention_within_an_object():
    logits = torch.tensor([[[30.0, 0, 0, 0], [0, 30.0, 0, 0]]])
    own, other = torch.eye(2)[None, None], 1 - torch.eye(2)[None, None]
    assert attention_loss(own, logits, words(), 2).item() == pytest.approx(0, abs=1e-4)
    assert attention_loss(other, logits, words(), 2).item() > 5
    # Without a named background nothing is known of what attention should avoid.
    unplaced = words(placed=torch.zeros(1, 2, dtype=torch.bool))
    assert attention_loss(other, logits, unplaced, 2).item() == 0


def test_affinity_target_has_no_gradient():
    logits = torch.randn(1, 2, 4, requires_grad=True)
    attention = torch.full((1, 1, 2, 2), 0.5, requires_grad=True)
    attention_loss(attention, logits, words(), 2).backward()
    assert logits.grad is None
    assert attention.grad is not None


def test_no_mask_reaches_the_training(lexicon, table, batch, monkeypatch):
    def blind(*arguments, **named):
        scene = batches_draw(*arguments, **named)
        return dataclasses.replace(scene, mask=np.full_like(scene.mask, 77))

    batches_draw = batches.draw_scene
    monkeypatch.setattr(batches, "draw_scene", blind)
    again = make_batch(lexicon, table, PHASE, 12, (0, 5, 0))
    for name, value in tensors(again).items():
        assert torch.equal(value, tensors(batch)[name]), name


def test_batches_depend_on_step_and_process_only(lexicon, table, batch):
    same = make_batch(lexicon, table, PHASE, 12, (0, 5, 0))
    assert all(torch.equal(value, tensors(batch)[name]) for name, value in tensors(same).items())
    for key in ((0, 6, 0), (0, 5, 1), (1, 5, 0)):
        other = make_batch(lexicon, table, PHASE, 12, key)
        assert not torch.equal(other.images, batch.images)


def test_words_of_a_batch(batch, lexicon):
    told = batch.words
    size, concepts = len(batch.images), len(lexicon.names)
    truth = told.positives[:, size:]
    assert truth.shape == (size, concepts)
    assert told.positives[range(size), range(size)].all()  # a caption is true of its image
    assert not truth[:, list(lexicon.never_seen)].any()
    assert torch.equal(told.allowed, told.shown)  # a name belongs to one concept
    assert torch.equal(told.allowed.any(1), truth)  # what tokens may show, the image's captions say
    for b in range(size):
        for concept, tokens, top in zip(
            told.slot_concept[b], told.slot_tokens[b], told.slot_top[b], strict=True
        ):
            if top:
                assert told.allowed[b, tokens, concept].all()
                assert int(tokens.sum()) >= int(top)


def test_words_of_a_batch_of_the_second_world():
    natural = read("natural")
    batch = make_batch(natural, TokenTable(natural), NATURAL, 24, (0, 3, 0))
    told, size = batch.words, len(batch.images)
    assert told.positives[range(size), range(size)].all()
    assert (told.allowed | ~told.shown).all()  # what is shown may be named
    person, man, woman = (natural.concept[key] for key in ("1f6b6", MAN, WOMAN))
    assert told.allowed[told.shown[..., man]][:, person].all()  # a man is a person
    assert not told.allowed[told.shown[..., man] & ~told.shown[..., woman]][:, woman].any()
    assert told.shown[..., man].any()


def test_a_look_makes_texts_false_of_plain_pictures():
    natural = read("natural")
    texts = [Text("a photo of a cat.", ("cat",)), Text("a drawing of a cat.", ("cat",), "drawn")]
    cell = batches._Cell(None, (0, 14), (0, 14), ("1f408",), ())
    plain, drawn = (
        [dataclasses.replace(cell, scene=SimpleNamespace(look=look))] for look in ("", "drawn")
    )
    prompts = concept_prompts(natural, random.Random(0), usual=True)
    kept = np.tile(np.arange(196), (2, 1))
    told = batches._words(natural, [plain, drawn], texts, prompts, kept, 14)
    assert told.positives[:, :2].tolist() == [[True, False], [True, True]]


def test_small_images_sit_in_a_window_of_the_position_grid(lexicon, table):
    small = make_batch(lexicon, table, Phase(64, 64, 20, 10), 6, (0, 0, 0))
    assert small.images.shape == (6, 3, 64, 64)
    rows, columns = small.positions // 14, small.positions % 14
    for places in (rows, columns):
        assert ((places.amax(1) - places.amin(1)) == 7).all()


def test_forward_pass_equals_open_clips(table):
    torch.manual_seed(0)
    clip = new_clip(len(table.rows)).eval()
    images = torch.randn(2, 3, 112, 112)
    every = torch.arange(196).expand(2, -1)
    with torch.no_grad():
        views = encode_images(clip, images, every, every)
        expected = clip.encode_image(images, normalize=True)
    torch.testing.assert_close(views.cls, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(views.attention.sum(-1), torch.ones(3, 2, 196))


def test_an_interrupted_training_ends_with_the_same_weights(lexicon, tmp_path, monkeypatch):
    recipe = train.Recipe(steps=3, batch=2, processes=1, checkpoint=1, small=0.5, compile=False)

    def stop(lexicon_, table_, phase, size, key):
        if key[1] == 2:
            raise KeyboardInterrupt
        return make_batch(lexicon_, table_, phase, size, key)

    states = []
    for folder, interrupt in (("whole", False), ("halves", True)):
        out = tmp_path / folder
        out.mkdir()
        if interrupt:
            monkeypatch.setattr(train, "make_batch", stop)
            with pytest.raises(KeyboardInterrupt):
                train._work(0, recipe, lexicon, out, out / "first")
            dist.destroy_process_group()
            monkeypatch.undo()
        train._work(0, recipe, lexicon, out, out / "second")
        train.export(out / "checkpoint.pth", lexicon, out / "weights.safetensors")
        states.append((out / "weights.safetensors").read_bytes())
    assert states[0] == states[1]


def small_recipe(**settings):
    return train.Recipe(
        **{
            "steps": 2,
            "batch": 2,
            "processes": 1,
            "checkpoint": 1,
            "small": 0.5,
            "compile": False,
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({}, set()),
        ({"dense": 0.0, "output": 0.0, "affinity": 0.0, "mosaics": 0}, {"dense", "output"}),
        ({"world": 2, "layers": 5, "attended": 4, "usual": True, "loaders": 1}, set()),
    ],
)
def test_a_loss_is_switched_off_by_its_weight(tmp_path, settings, gone):
    recipe = small_recipe(steps=20, **settings)
    lexicon = read("natural" if recipe.world == 2 else "even")
    train._work(0, recipe, lexicon, tmp_path, tmp_path / "store")
    (line,) = csv.DictReader((tmp_path / "log.csv").open())
    assert {name for name in ("dense", "output") if not line[name]} == gone
    assert bool(line["affinity"]) == bool(recipe.affinity)


def test_only_named_patches_and_texts_train_without_the_special_losses(table, lexicon):
    recipe = small_recipe(dense=0.0, output=0.0)
    model = train.Objective(len(table.rows), lexicon, recipe)
    losses = model(make_batch(lexicon, table, PHASE, 2, (0, 0, 0)), False)
    expected = (losses["cls"] + losses["mean"]) / 2
    torch.testing.assert_close(losses["total"], expected)
    losses["total"].backward()
    assert model.dense_scale.grad is None


def test_the_log_of_an_interrupted_training_has_every_step_once(tmp_path):
    log = tmp_path / "log.csv"
    train._cut_log(log, 0)
    assert not log.exists()
    log.write_text("step,seconds\n20,1.0\n40,2.0\n60,3.0\n")
    train._cut_log(log, 50)
    assert log.read_text() == "step,seconds\n20,1.0\n40,2.0\n"


def test_a_checkpoint_of_another_recipe_is_refused(lexicon, tmp_path):
    train._work(0, small_recipe(steps=1), lexicon, tmp_path, tmp_path / "store")
    with pytest.raises(InputError, match="another affinity, steps; name another folder"):
        train._work(0, small_recipe(affinity=1.0), lexicon, tmp_path, tmp_path / "again")
    dist.destroy_process_group()


def test_a_gpu_trains_in_one_process():
    with pytest.raises(InputError, match="--processes: must be 1 on cuda; got 2"):
        train.Recipe(device="cuda")


def test_a_model_of_more_layers_is_read_back(tmp_path):
    vocabulary, templates = train.VOCABULARY, train.TEMPLATES
    train.rebuild(
        tmp_path,
        {
            "vocabulary": vocabulary,
            "templates": templates,
            **dataclasses.asdict(small_recipe(world=2, layers=6, attended=4)),
        },
    )
    clip = load_clip(
        {
            "architecture": str(tmp_path / "model.json"),
            "weights": str(tmp_path / "demo-clip.safetensors"),
        }
    )
    features = clip.encode_texts([["a photo of a woman."], ["a photo of a tvmonitor screen."]])
    assert torch.isfinite(features).all()
    with pytest.raises(InputError, match="zebra"):
        clip.encode_texts([["a photo of a zebra."]])
