"""WeCLIP's numbers against what the public code gave (docs/weclip.md)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from weclip_cases import (
    by_image,
    decoder_name,
    decoder_shape,
    decoder_state,
    load,
    model_entry,
    needs_fixtures,
    tensor,
)

from clip_wsss.affinities.attention import (
    kept_layers,
    mean_attention,
    propagate,
    selected_attention,
)
from clip_wsss.affinities.box_rule import box_masks
from clip_wsss.labels.weclip import LabelSettings
from clip_wsss.labels.weclip_labels import Seen, WeCLIPLabels
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.crf import CrfSettings, crf
from clip_wsss.segmentation import warmup_poly
from clip_wsss.segmentation.affinity_loss import (
    affinity_label,
    affinity_loss,
    pixel_loss,
    radius_mask,
)
from clip_wsss.segmentation.losses import PixelLoss
from clip_wsss.segmentation.predict import label_of
from clip_wsss.segmentation.views import fit_long_side, mean_logits
from clip_wsss.segmentation.weclip.decoder import affinity
from clip_wsss.segmentation.weclip.segmentor import IMAGENET, WeCLIP

pytestmark = needs_fixtures
CLOSE = {"atol": 1e-5, "rtol": 0}
FEW = 1 / 25000  # label pixels that may differ
# What the public code has for COCO.
COCO_LABELS = {
    "threshold": 0.7,
    "dynamic_layers": 10,
    "dynamic_start": 40000,
    "validation_every": 0,
}


def assert_labels(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.mean(ours != theirs) <= FEW


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = tmp_path_factory.mktemp("texts") / "features.npz"
    fixture = load("online_tiny")
    np.savez(texts, foreground=fixture["text_fg"], background=fixture["text_bg"])
    made = WeCLIP(
        backbone=model_entry() | {"position_embedding": {"resize": "bilinear", "round": "float16"}},
        decode_head=decoder_shape(),
        data_preprocessor={"type": "SegDataPreProcessor", "bgr_to_rgb": True, "size": (160, 160)},
        labels={"dynamic_start": 0},
        texts=texts,
    )
    made.decode_head.load_state_dict(decoder_state(), strict=False)
    missing = set(made.decode_head.state_dict()) - set(decoder_state())
    assert not missing
    assert float(made._frozen[0].logit_scale) == pytest.approx(float(fixture["logit_scale"]))
    return made.eval()


@pytest.fixture(scope="module")
def seen(model):
    fixture = load("online_tiny")
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    images = (torch.from_numpy(fixture["pixels"]).permute(0, 3, 1, 2).float() - mean) / std
    streams, attention, grid = model._look(images, model._labels.layers)
    with torch.no_grad():
        logits, features = model.decode_head([x[:, 1:] for x in streams], grid)
    keys = [own.tolist() for (own,) in by_image(fixture["counts"], fixture["keys"])]
    padding = torch.zeros(images[:, 0].shape, dtype=torch.bool)
    found = Seen(
        clip=model._frozen[0],
        images=images,
        size=tuple(images.shape[2:]),
        grid=grid,
        streams=streams,
        attention=attention,
        keys=keys,
        affinity=affinity(features),
        padding=padding,
        update=1,
    )
    return found, logits


def test_block_outputs_and_attention(model, seen):
    found, _ = seen
    theirs = tensor("online_tiny", "blocks")
    torch.testing.assert_close(torch.stack(found.streams), theirs, **CLOSE)
    maps = tensor("online_tiny", "attention")[..., 1:, 1:]
    torch.testing.assert_close(found.attention[:, :-1], maps.transpose(0, 1), **CLOSE)
    _, last = model._labels.cams(found)
    torch.testing.assert_close(last, tensor("online_tiny", "last_attention")[:, 1:, 1:], **CLOSE)


def test_probabilities(model, seen):
    found, _ = seen
    fixture, row = load("online_tiny"), 0
    clip = found.clip
    for place, keys in enumerate(found.keys):
        x = found.streams[-1][[place]]
        tokens = clip.last_block(x, clip.normed(x))
        texts = torch.cat(
            [tensor("online_tiny", "text_fg")[keys], tensor("online_tiny", "text_bg")]
        )
        own = (clip.logit_scale * clip.image_features(tokens) @ texts.T).softmax(dim=-1)[0]
        theirs = torch.from_numpy(fixture["probabilities"][row, : len(own)])
        torch.testing.assert_close(own, theirs, **CLOSE)
        row += len(keys)


def test_decoder(seen):
    found, logits = seen
    torch.testing.assert_close(logits, tensor("online_tiny", "logits"), **CLOSE)
    torch.testing.assert_close(found.affinity, tensor("online_tiny", "affinity"), **CLOSE)


def test_cams_and_boxes(model, seen):
    cams, _ = model._labels.cams(seen[0])
    torch.testing.assert_close(torch.cat(cams), tensor("online_tiny", "cam"), **CLOSE)
    masks = np.concatenate([box_masks(cam, 0.4, "clamp") for cam in cams])
    np.testing.assert_array_equal(masks, load("online_tiny")["box_mask"])


@pytest.mark.parametrize("kind", ["static", "rfm"])
def test_online_labels(model, seen, kind):
    found, _ = seen
    texts = tensor("online_tiny", "text_fg"), tensor("online_tiny", "text_bg")
    settings = LabelSettings(dynamic_start=0 if kind == "rfm" else 15000)
    maker = WeCLIPLabels(settings, texts)
    label = maker(found).numpy()  # puts the last block's maps in their place
    cams, _ = maker.cams(found)
    means = [maker.combined(found, place, kind == "rfm") for place in range(len(cams))]
    theirs = tensor("online_tiny", f"{kind}_mean_attention")
    torch.testing.assert_close(torch.stack(means), theirs, **CLOSE)
    refined = [maker.refined(cam, mean) for cam, mean in zip(cams, means, strict=True)]
    ours = torch.cat(refined).float()
    torch.testing.assert_close(ours, tensor("online_tiny", f"{kind}_refined"), **CLOSE)
    if kind == "static":
        full = torch.cat([maker.scores(own, found.size)[1:] for own in refined])
        theirs = tensor("online_tiny", "static_full")
        torch.testing.assert_close(full.half().float(), theirs, atol=5e-4, rtol=0)
    assert_labels(label, load("online_tiny")[f"{kind}_labels"])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("voc", "static"),
        ("voc", "rfm"),
        ("voc", "rfm_wide"),
        ("coco", "static"),
        ("coco", "rfm_wide"),
    ],
)
def test_twelve_maps(data, kind):
    fixture = load("refine_12maps")
    settings = LabelSettings(**(COCO_LABELS if data == "coco" else {}))
    attention = tensor("refine_12maps", "attention")
    wanted = tensor("refine_12maps", "wide_affinity" if kind == "rfm_wide" else "affinity")
    cams = [torch.from_numpy(cam) for (cam,) in by_image(fixture["counts"], fixture["cam"])]
    refined, means, masks = [], [], []
    for place, cam in enumerate(cams):
        if kind == "static":
            mean = mean_attention(attention[place, -settings.static_layers :])
        else:
            maps = attention[place, -settings.dynamic_layers :]
            mean = selected_attention(maps, wanted[place], "signed")
        means.append(mean)
        masks.append(box_masks(cam, settings.threshold, settings.box_edge))
        refined.append(propagate(cam, mean, masks[-1], settings.sinkhorn, settings.power))
    np.testing.assert_array_equal(np.concatenate(masks), fixture[f"{data}_box_mask"])
    theirs = tensor("refine_12maps", f"{data}_{kind}_mean")
    torch.testing.assert_close(torch.stack(means), theirs, **CLOSE)
    theirs = tensor("refine_12maps", f"{data}_{kind}_refined")
    torch.testing.assert_close(torch.cat(refined).float(), theirs, **CLOSE)


def test_the_papers_filter_keeps_other_layers():
    """Where A has zeros, the absolute value matters (slip 4); the fixtures are made so."""
    attention, wide = tensor("refine_12maps", "attention"), tensor("refine_12maps", "wide_affinity")
    for maps, own in zip(attention[:, -6:], wide, strict=True):
        assert (kept_layers(maps, own, "signed") != kept_layers(maps, own, "absolute")).any()


def test_losses_and_their_gradient():
    fixture = load("losses")
    label = torch.from_numpy(fixture["labels"]).long()
    logits = tensor("losses", "logits").requires_grad_()
    grid = tuple(logits.shape[2:])
    np.testing.assert_array_equal(radius_mask(grid, 8).numpy(), fixture["radius_mask"] > 0)
    pairs = affinity_label(label, grid, 8)
    np.testing.assert_array_equal(pairs.numpy(), fixture["affinity_label"])
    assert [int((pairs == 1).sum()) + 1, int((pairs == 0).sum()) + 1] == fixture["counts"].tolist()
    loss = affinity_loss(tensor("losses", "affinity"), pairs)
    assert loss.item() == pytest.approx(float(fixture["aff_loss"]), abs=1e-6)
    full = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    loss = pixel_loss(PixelLoss("balanced"), full, label)
    assert loss.item() == pytest.approx(float(fixture["seg_loss"]), abs=1e-6)
    loss.backward()
    theirs = tensor("losses", "logits_grad")
    difference = (logits.grad - theirs).abs().max() / theirs.abs().max()
    assert float(difference) <= 1e-5


def test_one_update(model, seen):
    """Losses, gradients, and weights after a step of AdamW at step 60 of the schedule."""
    found, _ = seen
    fixture = load("update_tiny")
    head = model.decode_head
    kept = {name: value.clone() for name, value in head.state_dict().items()}
    logits, features = head([x[:, 1:] for x in found.streams], found.grid)
    label = torch.from_numpy(load("online_tiny")["rfm_labels"]).long()
    full = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False)
    seg = pixel_loss(head.loss_decode, full, label)
    aff = affinity_loss(affinity(features), affinity_label(label, found.grid, 8))
    assert seg.item() == pytest.approx(float(fixture["seg_loss"]), abs=1e-6)
    assert aff.item() == pytest.approx(float(fixture["aff_loss"]), abs=1e-6)
    parameters = dict(head.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=2e-3, weight_decay=0.01)
    schedule = warmup_poly.WarmupPolyLR(optimizer, end=30000)
    for group in optimizer.param_groups:
        group["lr"] = 2e-3 * schedule.factor(int(fixture["step"]))
    (seg + 0.1 * aff).backward()
    optimizer.step()
    checked = 0
    for name, theirs in fixture.items():
        kind, _, public = name.partition(".")
        if kind not in ("grad", "after"):
            continue
        own = parameters[decoder_name(public)]
        if kind == "grad":
            difference = np.abs(own.grad.numpy() - theirs).max() / np.abs(theirs).max()
            assert difference <= 1e-5, name
        else:
            np.testing.assert_allclose(
                own.detach().numpy(), theirs, atol=1e-5, rtol=0, err_msg=name
            )
            assert not np.allclose(kept[decoder_name(public)].numpy(), theirs, atol=1e-5)
        checked += 1
    assert checked
    optimizer.zero_grad()
    head.load_state_dict(kept)


def test_rates():
    fixture = load("update_tiny")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    schedule = warmup_poly.WarmupPolyLR(optimizer, end=30000)
    for step, rate in zip(fixture["schedule_step"], fixture["schedule_rate"], strict=True):
        assert 2e-3 * schedule.factor(int(step)) == pytest.approx(rate, rel=1e-7)


@pytest.mark.parametrize("number", [0, 1])
def test_whole_images(model, number):
    """Long side 512, four views, the mean of their logits; the CRF on it; the pseudo label."""
    fixture = load("test_tiny")
    rgb = fixture[f"rgb{number}"]
    bgr = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
    image = model.data_preprocessor({"inputs": [bgr]})["inputs"]
    image = fit_long_side(image, 512)
    size = rgb.shape[:2]
    for kind, scales, flip in (("single_", (1.0,), False), ("", (1.0, 0.75), True)):
        logits = mean_logits(model, image, scales, flip)
        field = f"{kind or 'mean_'}logits{number}"
        torch.testing.assert_close(logits[0], tensor("test_tiny", field), **CLOSE)
        full = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]
        assert_labels(full.argmax(dim=0).numpy(), fixture[f"{kind}label{number}"])
    # The scores stay float32, as in the public code's test.
    settings = CrfSettings(gaussian_sxy=3, bilateral_sxy=64, bilateral_srgb=5)
    refined = crf(MaskContext(full.softmax(dim=0).numpy(), rgb), settings)
    assert_labels(refined.argmax(axis=0), fixture[f"crf_label{number}"])


@pytest.mark.parametrize("number", [0, 1])
def test_pseudo_label_of_a_whole_image(model, number):
    online, theirs = load("online_tiny"), load("test_tiny")[f"cam_label{number}"]
    there = set(np.unique(theirs).tolist()) - {0}
    tags = [own.tolist() for (own,) in by_image(online["counts"], online["keys"])]
    fitting = [keys for keys in tags if there <= {key + 1 for key in keys}]
    if len(fitting) != 1:
        pytest.skip("the label does not tell which of the images this is")
    scores = model.final_scores(load("test_tiny")[f"rgb{number}"], fitting[0], long_side=512)
    assert 0 <= scores.min() <= scores.max() <= 1
    assert_labels(label_of(scores.numpy(), fitting[0]), theirs)


def test_a_batch_goes_through_the_loss_as_piece_by_piece(model, seen):
    found, _ = seen
    samples = []
    for keys in found.keys:
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *found.size).long()))
        sample.set_metainfo({"class_keys": keys})
        samples.append(sample)
    before = int(model.forwards)
    losses = model(found.images, samples, mode="loss")
    fixture = load("update_tiny")
    assert int(model.forwards) == before + 1
    assert losses["loss_seg"].item() == pytest.approx(float(fixture["seg_loss"]), abs=1e-6)
    assert losses["loss_aff"].item() == pytest.approx(0.1 * float(fixture["aff_loss"]), abs=1e-6)
