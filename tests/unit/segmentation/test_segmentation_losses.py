"""The losses on pseudo masks, and the way of the confidence to them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from clip_wsss.core.confidence import EDGES, decode, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import registered
from clip_wsss.segmentation.losses import (
    ConfidenceSampler,
    PixelLoss,
    loss_config,
    pack,
)

MUS = st.sampled_from(EDGES.tolist())


def batch(seed: int, height: int = 6, width: int = 7):
    """Logits (2, 4, H, W) that want gradients, labels with 255 among them, confidences."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(2, 4, height, width)), dtype=torch.float32)
    label = torch.tensor(rng.choice([0, 1, 2, 3, 255], (2, height, width)))
    confidence = torch.tensor(rng.uniform(size=(2, height, width)), dtype=torch.float32)
    return logits.requires_grad_(), label, confidence


def test_known_answer():
    # Two classes, equal logits but for the second pixel: log 2 and log(1 + e^-1).
    logits = torch.tensor([[[[0.0, 1.0, 5.0]], [[0.0, 0.0, 5.0]]]])
    label = torch.tensor([[[0, 0, 1]]])
    confidence = torch.tensor([[[0.95, 0.96, 0.949]]])
    loss = PixelLoss("confidence-guided", mu=0.95)(logits, label, confidence)
    assert loss.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-1))) / 2)


def test_a_balanced_loss_averages_foreground_and_background_apart():
    logits = torch.zeros(1, 3, 1, 5)
    logits[0, 0, 0, :4] = 2.0
    label = torch.tensor([[[0, 0, 0, 0, 1]]])
    background = -torch.log_softmax(torch.tensor([2.0, 0, 0]), 0)[0]
    loss = PixelLoss("balanced")(logits, label)
    assert loss.item() == pytest.approx(((background + math.log(3)) / 2).item())
    counting = PixelLoss("confidence-guided", mu=0.95)
    for _ in range(2):
        counting(logits, label, torch.tensor([[[1.0, 0.95, 0.9, 0.0, 1.0]]]))
    assert counting.pixels == 2 * 3, "of all batches since the log looked"
    only_background = PixelLoss("balanced")(logits[..., :4], label[..., :4])
    assert only_background.item() == pytest.approx(background.item() / 2)


@given(st.integers(0, 10_000), MUS)
def test_cgl_equals_the_255_export(seed, mu):
    """Writing 255 where the confidence is below mu, and torch's mean over the rest, is CGL."""
    logits, label, confidence = batch(seed)
    guided = PixelLoss("confidence-guided", mu=mu)(logits, label, confidence)
    (gradient,) = torch.autograd.grad(guided, logits)

    exported = label.where(confidence >= mu, 255)
    if (exported == 255).all():
        assert guided == 0
        assert (gradient == 0).all()
        return
    reference = F.cross_entropy(logits, exported, ignore_index=255)
    (expected,) = torch.autograd.grad(reference, logits)
    torch.testing.assert_close(guided, reference)
    torch.testing.assert_close(gradient, expected)


@given(st.integers(0, 10_000), MUS)
def test_cgl_equals_a_loop_over_the_pixels(seed, mu):
    logits, label, confidence = batch(seed, 3, 4)
    terms = [
        -logits[n, :, y, x].log_softmax(0)[label[n, y, x]]
        for n in range(2)
        for y in range(3)
        for x in range(4)
        if label[n, y, x] != 255 and confidence[n, y, x] >= torch.tensor(mu)
    ]
    expected = torch.stack(terms).mean() if terms else torch.tensor(0.0)
    torch.testing.assert_close(
        PixelLoss("confidence-guided", mu=mu)(logits, label, confidence), expected
    )


@pytest.mark.parametrize("name", registered("loss"))
def test_no_pixel_that_counts_gives_zero_with_a_gradient_of_zero(name):
    logits, label, confidence = batch(0)
    loss = PixelLoss(name)(logits, torch.full_like(label, 255), confidence)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_an_infinite_loss_of_a_pixel_that_does_not_count_leaves_no_trace():
    logits = torch.tensor([[[[0.0, -math.inf]], [[0.0, 0.0]]]], requires_grad=True)
    label, confidence = torch.tensor([[[0, 0]]]), torch.tensor([[[1.0, 0.1]]])
    loss = PixelLoss("confidence-guided", mu=0.5)(logits, label, confidence)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.isfinite(logits.grad).all()


def test_losses_are_built_by_mmsegmentation_and_carry_their_weight():
    logits, label, confidence = batch(1)
    plain, half = (MODELS.build(loss_config("confidence-guided", 0.5, w)) for w in (1.0, 0.5))
    assert plain.loss_name.startswith("loss_")  # else MMEngine would not minimise it
    torch.testing.assert_close(
        half(logits, label, confidence), plain(logits, label, confidence) / 2
    )


def test_cross_entropy_counts_all_pixels():
    logits, label, confidence = batch(2)
    loss = MODELS.build(loss_config("cross-entropy", 0.0))(logits, label, confidence)
    torch.testing.assert_close(loss, F.cross_entropy(logits, label, ignore_index=255))


@pytest.mark.parametrize(
    ("name", "mu", "message"),
    [
        (
            "confidence-guide",
            0.5,
            "must be one of balanced, confidence-guided, cross-entropy, or .* got confidence-guide",
        ),
        ("confidence-guided", 1.5, "segmentation.mu: .* got 1.5"),
        ("balanced", -0.1, "segmentation.mu: .* got -0.1"),
        ("confidence-guided", 0.955, "segmentation.mu: .* got 0.955; .* 0.95"),
        ("cross-entropy", 0.95, "counts all pixels"),
    ],
)
def test_bad_settings_are_one_line(name, mu, message):
    with pytest.raises(InputError, match=message) as caught:
        loss_config(name, mu)
    assert "\n" not in str(caught.value)


def test_pack_survives_float32():
    rng = np.random.default_rng(3)
    label = rng.choice([0, 7, 254, 255], (40, 50)).astype(np.uint8)
    codes = rng.integers(0, 70, label.shape).astype(np.uint8)
    packed = pack(label, codes)
    assert (packed.astype(np.float32).astype(np.int64) == packed).all()

    unpacked = torch.from_numpy(packed).long()[None, None]
    weight = ConfidenceSampler().sample(None, unpacked)
    assert (unpacked[0, 0].numpy() == label).all()
    assert weight.dtype == torch.float32
    assert (weight[0].numpy() == decode(codes)).all()
    padding = torch.full((1, 1, 1, 1), 255)
    assert ConfidenceSampler().sample(None, padding).item() == 0
    assert padding.item() == 255


@given(st.floats(0, 1, width=32) | MUS, MUS | st.sampled_from([0.95, 0.6, 0.993]))
def test_the_code_of_a_pixel_counts_where_its_confidence_would(confidence, mu):
    """Also for a mu in double precision, as a config gives it."""
    packed = pack(np.zeros((1, 1), np.uint8), encode(np.float32([[confidence]])))
    weight = ConfidenceSampler().sample(None, torch.from_numpy(packed).long()[None, None])
    loss = PixelLoss("confidence-guided", mu=mu)(
        torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long(), weight
    )
    assert (loss.item() > 0) == (np.float32(confidence) >= np.float32(mu))


@pytest.mark.parametrize("head", ["FCNHead", "SegformerHead", "DepthwiseSeparableASPPHead"])
def test_a_head_of_the_zoo_hands_the_confidence_to_the_loss(head):
    """loss_by_feat with packed labels is CGL on the resized logits, and its accuracy is right."""
    extra = {"dilations": [1, 2], "c1_in_channels": 0, "c1_channels": 0}
    features = {"in_channels": [4, 4], "in_index": [0, 1]}
    model = MODELS.build(
        {
            "type": head,
            **(features if head == "SegformerHead" else {"in_channels": 4, "in_index": 0}),
            **(extra if head == "DepthwiseSeparableASPPHead" else {}),
            "channels": 4,
            "num_classes": 4,
            "loss_decode": loss_config("confidence-guided", 0.6),
            "sampler": {"type": "ConfidenceSampler"},
        }
    )
    logits, label, confidence = batch(4)
    codes = encode(confidence.numpy())
    packed = [pack(a.numpy().astype(np.uint8), b) for a, b in zip(label, codes, strict=True)]
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.tensor(p).long()[None])) for p in packed
    ]
    losses = model.loss_by_feat(logits, samples)
    expected = PixelLoss("confidence-guided", mu=0.6)(logits, label, confidence)
    torch.testing.assert_close(losses["loss_seg"], expected)
    labelled = label != 255
    right = (logits.argmax(1) == label)[labelled].float().mean() * 100
    torch.testing.assert_close(losses["acc_seg"], right.reshape(1), rtol=1e-4, atol=1e-4)


ODD_LOSSES = """
def unreduced(pixels):
    return pixels.losses

def vector(pixels):
    return pixels.losses.flatten(1).mean(1)

def number(pixels):
    return 1.0

def nothing(pixels):
    return None

def cut(pixels):
    return pixels.losses.detach().mean()

def whole(pixels):
    return pixels.losses.mean().long()

def failing(pixels):
    raise KeyError("x")

def fine(pixels):
    return 2 * pixels.mean(pixels.losses, pixels.counts)
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("unreduced", r"must return a tensor \(\) .*; got \(2, 3, 4\)"),
        ("vector", r"must return a tensor \(\) .*; got \(2,\)"),
        ("number", "must return a tensor .*; got float"),
        ("nothing", "must return a tensor .*; got NoneType"),
        ("cut", "gradient False"),
        ("whole", "torch.int64"),
        ("failing", "KeyError: 'x'"),
    ],
)
def test_a_loss_that_gives_no_scalar_is_one_line(tmp_path, monkeypatch, name, line):
    (tmp_path / "odd_losses.py").write_text(ODD_LOSSES)
    monkeypatch.syspath_prepend(tmp_path)
    logits = torch.zeros(2, 5, 3, 4, requires_grad=True)
    label = torch.zeros(2, 3, 4, dtype=torch.int64)
    with pytest.raises(InputError, match=f"^odd_losses:{name}: loss: .*{line}"):
        PixelLoss(f"odd_losses:{name}")(logits, label)
    fine = PixelLoss("odd_losses:fine", loss_weight=0.5)(logits, label)
    assert fine.item() == pytest.approx(np.log(5))
