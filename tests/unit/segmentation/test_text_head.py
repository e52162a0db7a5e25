"""The text head: logits by hand, classes that are added, shuffled texts, and its trainings."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from segmentation_case import CLASSES, Case

from clip_wsss.core.archives import Archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import write_npz
from clip_wsss.segmentation.data import PseudoMaskDataset
from clip_wsss.segmentation.predict import Predictor, predict
from clip_wsss.segmentation.segmentor import build_model, read_segmentor
from clip_wsss.segmentation.text_head import (
    NEVER,
    TextHead,
    read_texts,
    shuffled,
    texts_of_checkpoint,
)
from clip_wsss.segmentation.train import check_trainings, train

TEXTS = torch.tensor([[1.0, 0, 0, 0], [0, 0.6, 0.8, 0]])  # of two classes
WORDS = torch.tensor([[0, 0, 0, 1.0], [0, 0, -1.0, 0]])


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def head_of(background="words", texts=TEXTS, words=WORDS, unseen=(), **more):
    inner = {"type": "FCNHead", "in_channels": 3, "channels": 3, "num_convs": 0}
    inner |= {"concat_input": False, "dropout_ratio": 0}
    settings = {"scale": 10.0, "num_classes": len(texts) + 1, **more}
    return TextHead(inner, texts, words, background, unseen=unseen, **settings)


def pixels(*features):
    """(1, E, 1, n) of n pixels."""
    return torch.tensor(features).T[None, :, None].float()


def test_logits_by_hand():
    # 3, 0, 4, 0 has the length 5: cosines 0.6 and 0.64 with the classes, 0 and -0.8 with the words.
    found = head_of().logits(pixels([3, 0, 4, 0], [0, 0, 0, 2]))[0, :, 0].T
    torch.testing.assert_close(found, torch.tensor([[0, 6.0, 6.4], [10, 0, 0]]))


def test_the_background_is_learnt_or_never_predicted():
    head = head_of("learnt")
    head.vector.data = torch.tensor([[0, 0, 2.0, 0]])
    dense = pixels([3, 0, 4, 0])
    torch.testing.assert_close(head.logits(dense)[0, :, 0, 0], torch.tensor([8, 6.0, 6.4]))
    assert head.logits(dense)[0, 0].sum().backward() is None
    assert head.vector.grad.abs().sum() > 0
    assert head_of("none").logits(dense)[0, :, 0, 0].tolist() == pytest.approx([NEVER, 6, 6.4])


def test_a_pixel_that_is_a_text_gets_its_class_and_a_word_the_background():
    head = head_of()
    found = head.logits(pixels(*TEXTS.tolist(), *WORDS.tolist())).argmax(dim=1)
    assert found.tolist() == [[[1, 2, 0, 0]]]


def test_an_unseen_class_takes_no_part_in_the_softmax_of_a_training():
    head = head_of(unseen=[1]).train()
    dense = pixels([3, 0, 4, 0]).requires_grad_()
    logits = head.logits(dense)
    share = logits.softmax(dim=1)[0, :, 0, 0]
    assert share[2] == 0
    assert share[1].item() == pytest.approx(1 / (1 + math.exp(-6)))
    assert head.eval().logits(dense)[0, :, 0, 0].argmax() == 2  # in a prediction it does
    torch.testing.assert_close(logits.half().float().softmax(dim=1)[0, 2], torch.zeros(1, 1))


def test_a_pixel_of_zeros_has_no_endless_gradient():
    dense = pixels([0, 0, 0, 0], [3, 0, 4, 0]).requires_grad_()
    head_of().logits(dense)[0, 1].sum().backward()
    assert dense.grad.isfinite().all()
    assert dense.grad.abs().max() < 2e4  # the scale over the least length, 10 / 1e-3


def test_a_class_is_added_at_prediction():
    head = head_of().eval()
    more = torch.cat([TEXTS, torch.tensor([[0, 0.8, -0.6, 0]])])
    dense = pixels(*more.tolist(), [0, 0, 0, 1])
    before = head.logits(dense)
    head.classify_by(more, WORDS, 4)
    after = head.logits(dense)
    assert torch.equal(before, after[:, :3])
    assert after.argmax(dim=1).tolist() == [[[1, 2, 3, 0]]]


def test_the_scale_is_learnt_if_asked():
    assert {name for name, _ in head_of(learn_scale=True).named_parameters()} - {
        name for name, _ in head_of().named_parameters()
    } == {"log_scale"}


@pytest.mark.parametrize("number", [2, 3, 20])
def test_shuffled_texts_leave_none_with_its_own(number):
    texts = torch.eye(number)
    found = [shuffled(texts, 0, seed) for seed in range(20)]
    for one in found:
        assert torch.equal(one.sum(dim=0), torch.ones(number))  # the same rows
        assert one.diagonal().sum() == 0
    assert torch.equal(found[0], shuffled(texts, 0, 0))
    if number > 2:
        assert len({one.argmax(dim=1).numpy().tobytes() for one in found}) > 1
        assert len({shuffled(texts, n, 0).argmax(dim=1).numpy().tobytes() for n in range(20)}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": TEXTS[:1], "num_classes": 3}, "texts of 1 classes, but 2 classes; make"),
        ({"words": WORDS[:0]}, "text_head.background: words, but the texts have none; name"),
    ],
)
def test_texts_that_do_not_fit_are_one_line(change, message):
    with pytest.raises(InputError, match=message):
        head_of(**change)


def test_texts_of_another_clip_are_one_line():
    with pytest.raises(InputError, match="width 3, but the head was trained for 4; make"):
        head_of().classify_by(TEXTS[:, :3], WORDS, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"foreground": np.ones((2, 3))}, "must hold foreground and background; make"),
        (
            {"foreground": np.ones((2, 3)), "background": np.ones((1, 4))},
            r"must be \(K, E\) and \(M, E\); got \(2, 3\) and \(1, 4\); make",
        ),
        (
            {"foreground": np.full((2, 3), np.nan), "background": np.ones((1, 3))},
            "hold NaN or infinity; make",
        ),
        (
            {"foreground": np.eye(2, 3), "background": 50 * np.eye(1, 3)},
            "background: every text must have the length 1; got lengths from 50 to 50; make",
        ),
        (
            {"foreground": np.zeros((2, 3)), "background": np.eye(1, 3)},
            "foreground: every text must have the length 1; got lengths from 0 to 0; make",
        ),
        (
            {"foreground": np.array([["a", "b"]]), "background": np.eye(1, 2)},
            "foreground: must be floats; got str",
        ),
    ],
)
def test_a_damaged_file_of_texts_is_one_line(tmp_path, arrays, message):
    write_npz(tmp_path / "texts.npz", arrays)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / "texts.npz")


def texts_file(case, texts=TEXTS, words=WORDS):
    path = case.root / "texts.npz"
    write_npz(path, {"foreground": texts.numpy(), "background": words.numpy()})
    return path


def entry_of(case, seen_only=False, **head):
    settings = {"background": "words", "scale": 10.0, "learn_scale": False, "shuffle_texts": None}
    return {**case.entry, "text_head": settings | head, "seen_only": seen_only}


def trained(case, entry, seed=0, dataset=None):
    files = case.root / "c.pth", case.root / "log.csv"
    texts = texts_file(case)
    dataset = {**case.dataset, **(dataset or {})}
    train(entry, dataset, [str(case.masks)], seed, case.root / "work", *files, texts=texts)
    return files[0]


def test_any_decode_head_of_the_zoo_can_have_it(case):
    for name in ("segformer-b0", "deeplabv3plus-r50", "deeplabv2-r18"):
        path = f"config/segmentors/{name}.yaml"
        model = build_model(read_segmentor(path), entry_of(case), 3, path, (TEXTS, WORDS)).train()
        image = torch.zeros(2, 3, 64, 64)
        assert model.decode_head.dense(model.extract_feat(image)).shape[1] == TEXTS.shape[1]
        assert model.eval()(image).shape[1] == 3
        assert {"decode_head.texts", "decode_head.words"} <= model.state_dict().keys()


def test_a_segmentor_of_several_decode_heads_is_one_line(case):
    segmentor = read_segmentor(case.entry["segmentor"])
    segmentor.model.decode_head = [segmentor.model.decode_head] * 2
    with pytest.raises(InputError, match=r"x: model.decode_head: text_head needs .* it has 2"):
        build_model(segmentor, entry_of(case), 3, "x", (TEXTS, WORDS))


def test_the_check_builds_a_training_with_its_head(case):
    # FAULTS 27
    assert check_trainings({"cgl": entry_of(case)}, 3) == []
    path = Path(case.entry["segmentor"])
    content = yaml.safe_load(path.read_text())
    content["model"]["decode_head"] = [content["model"]["decode_head"]] * 2
    (case.root / "two.yaml").write_text(yaml.safe_dump(content))
    entry = {**entry_of(case), "segmentor": str(case.root / "two.yaml")}
    (said,) = check_trainings({"cgl": entry}, 3)
    assert said.endswith(
        "model.decode_head: text_head needs a segmentor of one decode head; it has 2"
    )


def test_a_training_leaves_its_texts_and_predicts_other_classes(case):
    checkpoint = trained(case, entry_of(case))
    own, words = texts_of_checkpoint(checkpoint)
    assert torch.equal(own, TEXTS)
    assert torch.equal(words, WORDS)
    plain = Predictor(entry_of(case), case.inference, checkpoint, CLASSES, "cpu")
    rgb = np.full((32, 32, 3), 90, np.uint8)
    first = plain.probabilities(rgb)
    assert first.shape == (3, 32, 32)

    more = torch.cat([TEXTS, torch.tensor([[0, 0.8, -0.6, 0]])])
    vocabulary = {"classes": [*CLASSES[1:], "cow"], "names": {}, "backgrounds": {}}
    (case.root / "more.yaml").write_text(yaml.safe_dump(vocabulary))
    dataset = {**case.dataset, "vocabulary": str(case.root / "more.yaml")}
    with pytest.raises(InputError, match="was trained on 3 classes"):
        predict(entry_of(case), case.inference, checkpoint, dataset, case.ids, case.root / "p.zip")
    texts = texts_file(case, more)
    arguments = (entry_of(case), case.inference, checkpoint, dataset, case.ids)
    predict(*arguments, case.root / "p.zip", texts=texts)
    assert Archive(case.root / "p.zip").ids == case.ids
    names = ["background", *vocabulary["classes"]]
    other = Predictor(entry_of(case), case.inference, checkpoint, names, "cpu", texts)
    shares = other.probabilities(rgb)
    # The classes of the training keep their odds.
    np.testing.assert_allclose(shares[1] / shares[0], first[1] / first[0], rtol=1e-3)


def test_a_checkpoint_without_texts_is_one_line(case):
    path = case.root / "c.pth"
    torch.save({"state_dict": {"decode_head.x": torch.ones(1)}}, path)
    with pytest.raises(InputError, match=r"c.pth: holds no text features; it was trained without"):
        Predictor(entry_of(case), case.inference, path, CLASSES, "cpu")


def test_a_training_with_shuffled_texts_keeps_the_ones_of_its_seed(case):
    for seed in (0, 1):
        found, _ = texts_of_checkpoint(trained(case, entry_of(case, shuffle_texts=3), seed))
        assert torch.equal(found, TEXTS.flip(0))  # the only order of two that moves both


def test_pixels_of_unseen_classes_are_ignored_and_images_dropped(case):
    other = case.ids[1]
    case.labels[other][:] = 2  # nothing but the second class
    case.write_masks()
    arguments = (case.dataset, [str(case.masks)], 0, [])
    whole = PseudoMaskDataset(*arguments)
    data = PseudoMaskDataset(*arguments, ignored=[2])
    assert (len(whole), whole.dropped) == (5, 0)
    assert (len(data), data.dropped) == (4, 1)
    assert other not in [data.get_data_info(i)["id"] for i in range(len(data))]
    for place in range(len(data)):
        info, sample = data.get_data_info(place), data.prepare_data(place)
        label = case.labels[info["id"]]
        wanted = np.where(label == 2, 255, label)
        np.testing.assert_array_equal(sample["gt_seg_map"] & 0xFF, wanted)
        np.testing.assert_array_equal(sample["gt_seg_map"] >> 8, case.codes[info["id"]])
    with pytest.raises(
        InputError, match="no image has a pixel of a class that is seen; name fewer"
    ):
        PseudoMaskDataset(*arguments, ignored=[0, 1, 2])


@pytest.mark.parametrize("background", ["words", "none"])
def test_what_a_training_without_a_class_says_and_does_not_see(case, background):
    case.labels[case.ids[1]][:] = 2
    case.write_masks()
    entry = entry_of(case, seen_only=True, background=background)
    meta = torch.load(trained(case, entry, dataset={"unseen": ["dog"]}), weights_only=True)["meta"]
    # Without background an image of a dog alone has nothing left.
    dogs = sum(1 for name in case.ids if 1 not in case.labels[name])
    assert json.loads(meta)["images_dropped"] == (1 if background == "words" else dogs)


def test_an_unseen_class_changes_no_weight(case):
    """Masks that differ in pixels of the unseen class alone give the same bytes."""
    entry = entry_of(case, seen_only=True)
    first = trained(case, entry, dataset={"unseen": ["dog"]}).read_bytes()
    for name in case.ids:
        case.labels[name][case.labels[name] == 2] = 255
    case.write_masks()
    assert trained(case, entry, dataset={"unseen": ["dog"]}).read_bytes() == first
