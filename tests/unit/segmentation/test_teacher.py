"""GLM, PLM and their losses: answers that are known, and slow twins (docs/zero-shot.md)."""

import math

import pytest
import torch
import torch.nn.functional as F

from clip_wsss.core.errors import InputError
from clip_wsss.labels.teacher_settings import (
    GlmSettings,
    NonExclusiveSettings,
    PlmSettings,
    RegionSettings,
)
from clip_wsss.segmentation.teacher import glm as glm_module
from clip_wsss.segmentation.teacher.glm import GLMHead, attend, info_nce
from clip_wsss.segmentation.teacher.losses import non_exclusive_loss
from clip_wsss.segmentation.teacher.plm import PLMSampler, fill
from clip_wsss.segmentation.teacher.regions import (
    clusters,
    merged,
    pseudo_regions,
    sliding_windows,
)
from clip_wsss.segmentation.teacher.synthesiser import (
    Synthesiser,
    centroids_of,
    prototype_text_loss,
)

A, B = torch.eye(8, dtype=torch.float64)[:2]


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def glm(**settings) -> GLMHead:
    return GLMHead(GlmSettings(**settings), 8)


# --- GLM -----------------------------------------------------------------------------------------


def test_one_image_without_a_bank_has_no_loss():
    features = torch.randn(1, 8, 3, 4)
    assert glm(bank=0)(features, units(1, 8)) == 0


@pytest.mark.parametrize("tau", [0.07, 0.5, 1.0])
def test_two_orthogonal_images_that_are_right(tau):
    cls = torch.stack([A, B]).float()
    features = cls[..., None, None].expand(2, 8, 3, 3)
    wanted = math.log1p(math.exp(-1 / tau))
    assert glm(tau=tau, reduction="mean")(features, cls).item() == pytest.approx(wanted, abs=1e-7)
    assert glm(tau=tau, weight=3.0)(features, cls).item() == pytest.approx(6 * wanted, abs=1e-6)


def test_equal_pixels_are_asked_for_alike():
    features = torch.randn(2, 8, 1).expand(2, 8, 5)
    pooled, weights = attend(features, units(2, 8))
    torch.testing.assert_close(weights, torch.full((2, 5), 0.2))
    torch.testing.assert_close(pooled, features[..., 0])


def test_a_pixel_that_is_cls_many_times_is_all_that_is_asked_for():
    features, cls = torch.randn(2, 8, 6), units(2, 8)
    features[..., 4] = 1e4 * cls
    pooled, weights = attend(features, cls)
    assert torch.equal(weights, F.one_hot(torch.tensor([4, 4]), 6).float())
    torch.testing.assert_close(pooled, 1e4 * cls)


def test_the_weights_by_hand():
    """Two pixels whose product with CLS is sqrt(C) log 3 and 0: three parts and one."""
    features = torch.stack([8**0.5 * math.log(3) * A, B], dim=1)[None]
    torch.testing.assert_close(
        attend(features, A[None])[1], torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    )


def test_the_order_of_pixels_changes_nothing():
    features, cls = torch.randn(2, 8, 3, 4), units(2, 8)
    order = torch.randperm(12)
    other = features.flatten(2)[..., order].unflatten(2, (3, 4))
    torch.testing.assert_close(glm()(features, cls), glm()(other, cls))


def test_padding_is_not_asked_for():
    features, cls = torch.randn(2, 8, 3, 4), units(2, 8)
    inside = torch.ones(2, 3, 4, dtype=torch.bool)
    inside[:, :, 3] = False
    found = glm()(features, cls, inside)
    torch.testing.assert_close(found, glm()(features[..., :3], cls))
    assert found != glm()(features, cls)


@pytest.mark.parametrize("size", [0, 3, 5, 100])
def test_the_bank_against_a_loop(size):
    """A list of all features that were seen, and the formula written out."""
    head, earlier = glm(bank=size), []
    for step in range(4):
        features, cls = torch.randn(2, 8, 2, 2, requires_grad=True), units(2, 8, seed=step)
        wanted = 0.0
        for image in range(2):
            pixels = features[image].flatten(1)
            weights = (cls[image] @ pixels / 8**0.5).softmax(dim=0)
            pooled = F.normalize(pixels @ weights, dim=0)
            rows = [*cls, *(earlier[-size:] if size else [])]
            exps = torch.stack([(row @ pooled / 0.07).exp() for row in rows])
            wanted = wanted - (exps[image] / exps.sum()).log()
        loss = head(features, cls)
        torch.testing.assert_close(loss, wanted)
        loss.backward()  # although the bank has changed
        assert features.grad.any()
        earlier.extend(cls)
    held = min(size, 8)
    assert int(head.held) == held
    if held:
        assert torch.equal(head.bank[-held:], torch.stack(earlier[-held:]))
    assert head.state_dict().keys() == {"bank", "held"}
    assert not list(head.parameters())


def test_ranks_that_share_a_batch_sum_to_one_process(monkeypatch):
    """Sample i of rank r is number 2 i + r; each rank keeps the bank of one process."""
    features, cls = torch.randn(6, 8, 2, 2), units(6, 8)
    whole = glm(bank=8)
    wanted = [whole(features, cls) for _ in range(2)]  # in the second the bank counts
    heads = [glm(bank=8), glm(bank=8)]
    for step in range(2):
        found = 0
        for rank, head in enumerate(heads):
            monkeypatch.setattr(glm_module, "sharing", lambda rank=rank: (rank, 2))
            monkeypatch.setattr(
                glm_module, "gather_batch", lambda own: torch.cat([cls[0::2], cls[1::2]])
            )
            found = found + head(features[rank::2], cls[rank::2])
        torch.testing.assert_close(found, wanted[step])
    for head in heads:
        assert torch.equal(head.bank, whole.bank)


def test_the_length_of_pooled_pixels_counts_only_if_asked():
    features, cls = torch.randn(2, 8, 2, 1).expand(2, 8, 2, 2), units(2, 8)
    torch.testing.assert_close(glm()(features, cls), glm()(features.mean(3, True), cls))
    pooled = attend(features.flatten(2), cls)[0]
    wanted = info_nce(pooled, cls, torch.arange(2), cls[:0], 0.07).sum()
    torch.testing.assert_close(glm(normalise=False)(features, cls), wanted)


# --- pseudo regions ------------------------------------------------------------------------------


def everywhere(tokens: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(tokens), *tokens.shape[2:], dtype=torch.bool)


@pytest.mark.parametrize("fusion", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("split", [1, 3, 4])
def test_two_orthogonal_directions_are_two_regions(fusion, split):
    """Whatever their lengths, and wherever the border is, if windows differ in their shares."""
    tokens = A[:, None, None].expand(8, 6, 8).clone()
    tokens[..., split:] = B[:, None, None]
    tokens = tokens * torch.linspace(0.5, 7, 48).reshape(6, 8)
    found = pseudo_regions(tokens[None], everywhere(tokens[None]), RegionSettings(fusion=fusion))
    wanted = (torch.arange(8) >= split).long().expand(1, 6, 8)
    assert torch.equal(found, wanted)


def test_tokens_that_do_not_take_part_change_nothing():
    tokens = units(1, 6, 6, 8).permute(0, 3, 1, 2).double()
    inside = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    found = pseudo_regions(tokens, inside, RegionSettings())
    other = torch.where(inside[:, None], tokens, torch.randn(1, 8, 6, 6).double())
    assert torch.equal(found, pseudo_regions(other, inside, RegionSettings()))
    assert torch.equal(found == -1, ~inside)
    assert found[inside].unique().tolist() == list(range(int(found.max()) + 1))
    nothing = torch.zeros_like(inside)
    assert (pseudo_regions(tokens, nothing, RegionSettings()) == -1).all()


def test_fusion_at_its_ends():
    centres = torch.randn(3, 9, 8, dtype=torch.float64)
    centres[0, 1] = 2 * centres[0, 0]  # cosine 1: not above 1
    there = torch.ones(3, 9, dtype=torch.bool)
    assert torch.equal(merged(centres, there, 1.0), torch.arange(9).expand(3, 9))
    assert torch.equal(merged(centres, there, -1.0), torch.zeros(3, 9, dtype=torch.int64))


def slow_merged(centres, there, fusion):
    """Two loops over the clusters of one image."""
    leader = [-1] * len(centres)
    for first, one in enumerate(centres):
        if not there[first] or leader[first] >= 0:
            continue
        leader[first] = first
        for second, other in enumerate(centres):
            free = there[second] and leader[second] < 0
            if free and F.cosine_similarity(one, other, dim=0) > fusion:
                leader[second] = first
    return leader


@pytest.mark.parametrize("fusion", [-0.3, 0.2, 0.6])
def test_fusion_against_a_quadratic_twin(fusion):
    centres = torch.randn(4, 12, 3, dtype=torch.float64)
    there = torch.rand(4, 12) < 0.8
    found = merged(centres, there, fusion)
    assert found.tolist() == [slow_merged(*one, fusion) for one in zip(centres, there, strict=True)]


def test_windows_slide_to_the_edge():
    found = sliding_windows((2, 5), 0.4, 0.5).long()
    columns = [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    rows = [[1, 0], [0, 1]]
    wanted = [[r * c for r in row for c in column] for row in rows for column in columns]
    assert found.tolist() == wanted
    ends = sliding_windows((1, 7), 0.45, 1.0)  # 3 of 7 tokens: the last is moved back
    assert [one.nonzero()[:, 0].tolist() for one in ends] == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert sliding_windows((3, 3), 1.0, 0.1).tolist() == [[True] * 9]


def slow_clusters(points, taking, windows, rounds):
    """k-means of one image, point by point."""
    used = [n for n in range(len(points)) if taking[n]]
    centres = {}
    for m, window in enumerate(windows):
        own = [points[n] for n in used if window[n]]
        if own:
            centres[m] = sum(own) / len(own)
    nearest = None
    for number in range(rounds):
        found = {
            n: min(centres, key=lambda m: float((points[n] - centres[m]).square().sum()))
            for n in used
        }
        if found == nearest or number == rounds - 1:
            return centres, found
        nearest = found
        for m in centres:
            own = [points[n] for n in used if nearest[n] == m]
            if own:
                centres[m] = sum(own) / len(own)
    raise AssertionError


@pytest.mark.parametrize("rounds", [1, 2, 20])
def test_clusters_against_a_loop(rounds):
    points = units(2, 30, 4).double()
    taking = torch.rand(2, 30, generator=torch.Generator().manual_seed(2)) < 0.7
    windows = sliding_windows((5, 6), 0.3, 1.0).double()
    centres, nearest = clusters(points, taking, windows, rounds)
    for image in range(2):
        means, found = slow_clusters(points[image], taking[image], windows, rounds)
        assert nearest[image].tolist() == [found.get(n, -1) for n in range(30)]
        for m, mean in means.items():
            torch.testing.assert_close(centres[image, m], mean)


def test_the_same_tokens_give_the_same_bytes():
    tokens = units(3, 9, 7, 16).permute(0, 3, 1, 2)
    found = [pseudo_regions(tokens.clone(), everywhere(tokens), RegionSettings()) for _ in range(2)]
    assert torch.equal(*found)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    pseudo_regions(tokens, everywhere(tokens), RegionSettings())
    assert torch.equal(state, torch.get_rng_state())  # nothing is drawn
    alone = pseudo_regions(tokens[1:2], everywhere(tokens[1:2]), RegionSettings())
    assert torch.equal(alone[0], found[0][1])


# --- PLM -----------------------------------------------------------------------------------------


def test_labels_are_filled_where_there_are_none():
    label = torch.tensor([[[0, 2, 255, 255], [1, 255, 255, 255]]])
    empty = label == 255
    empty[0, 0, 3] = False  # padding
    empty[0, 1, 0] = True  # a label of low confidence
    regions = torch.tensor([[[1, 0, 0, -1], [0, 1, 0, -1]]])
    wanted = torch.tensor([[[0, 2, 3, 255], [3, 4, 3, 255]]])
    assert torch.equal(fill(label, empty, regions, 3), wanted)
    coarse = fill(label, empty, torch.tensor([[[7, 8]]]), 3)
    assert torch.equal(coarse, torch.tensor([[[0, 2, 11, 255], [10, 10, 11, 11]]]))


def test_centroids_are_means():
    features, label = torch.randn(2, 8, 3, 3), torch.randint(0, 4, (2, 3, 3))
    label[0, 0, 0] = 255
    label[1] = 1
    centroids, there = centroids_of(features, label, 5)
    for image in range(2):
        for value in range(5):
            own = features[image][:, label[image] == value]
            assert there[image, value] == (own.shape[1] > 0)
            wanted = own.mean(dim=1) if own.shape[1] else torch.zeros(8)
            torch.testing.assert_close(centroids[image, value], wanted)


def test_labels_that_are_not_there_are_not_seen():
    torch.manual_seed(0)
    synthesiser = Synthesiser(PlmSettings(heads=2), 8).eval()
    centroids, cls = torch.randn(2, 4, 8), units(2, 8)
    there = torch.tensor([[True, True, False, True], [False] * 4])
    found = synthesiser(centroids, there, cls)
    centroids[0, 2] = 99
    again = synthesiser(centroids, there, cls)
    torch.testing.assert_close(found[0, there[0]], again[0, there[0]])
    assert again.isfinite().all()
    assert not torch.allclose(found[0, 0], synthesiser(centroids, there, cls.flip(1))[0, 0])
    with pytest.raises(InputError, match=r"plm\.heads: must divide 8, .* got 3"):
        Synthesiser(PlmSettings(heads=3), 8)


def test_prototypes_against_texts_by_hand():
    texts = torch.stack([A, B]).float()
    prototypes = torch.stack([3 * A, A]).float()[None]  # the second class's is wrong
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    both = torch.tensor([[True, True]])
    # by pair: AA, AB, BA, BB; a cosine of 0 costs log 2
    wanted = (right + math.log(2) + wrong + math.log(2)) / 4
    found = prototype_text_loss(prototypes, both, texts, 2.0, "all")
    assert found.item() == pytest.approx(wanted)
    found = prototype_text_loss(prototypes, both, texts, 2.0, "positives")
    assert found.item() == pytest.approx((right + math.log(2)) / 2)
    one = torch.tensor([[True, False]])
    assert prototype_text_loss(prototypes, one, texts, 2.0, "positives").item() == pytest.approx(
        right
    )
    assert prototype_text_loss(prototypes, ~both, texts, 2.0, "all") == 0


def sampled(label: torch.Tensor, empty: torch.Tensor, **settings):
    torch.manual_seed(0)
    sampler = PLMSampler(PlmSettings(heads=2, **settings), 8)
    tokens = A[:, None, None].expand(8, 4, 4).clone().float()
    tokens[:, 2:] = B[:, None, None].float()
    tokens = torch.stack([tokens, A[:, None, None].expand(8, 4, 4).float()])
    features = torch.randn(2, 8, 4, 4)
    inside = torch.ones(2, 4, 4, dtype=torch.bool)
    texts, classes = units(2, 8), torch.tensor([1, 2])
    logits = torch.randn(2, 3, 4, 4)
    arguments = (label, empty, tokens, inside, units(2, 8), texts, classes, torch.tensor(5.0))
    return sampler(features, logits, *arguments), logits


def test_ignored_pixels_get_pseudo_classes_of_their_image():
    label = torch.full((2, 8, 8), 255)
    label[:, :, :4] = 1
    found, logits = sampled(label, label == 255, alpha=2.0)
    assert torch.equal(found.label[:, :, :4], label[:, :, :4])
    assert (found.label[0, :4, 4:] == 3).all()
    assert (found.label[0, 4:, 4:] == 4).all()  # the other direction
    assert (found.label[1, :, 4:] == 3).all()
    assert found.there.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert found.logits.shape == (2, 5, 4, 4)
    torch.testing.assert_close(found.logits[:, :3], 2 * logits)
    assert found.logits[:, 3:].abs().max() <= 5
    assert found.loss > 0


def test_without_a_pixel_to_fill_there_is_no_pseudo_class():
    label = torch.ones(2, 8, 8, dtype=torch.int64)
    found, logits = sampled(label, label == 255)
    assert torch.equal(found.label, label)
    torch.testing.assert_close(found.logits, logits)
    whole, _ = sampled(label, label == 255, clustered="image")
    assert torch.equal(whole.label, label)
    assert whole.logits.shape[1] == 5


def test_more_pseudo_classes_than_labels_can_be_are_one_line():
    label = torch.full((2, 8, 8), 255)
    torch.manual_seed(0)
    sampler = PLMSampler(PlmSettings(heads=2, fusion=1.0, windows=[0.05], clustered="image"), 8)
    inside = torch.ones(2, 16, 16, dtype=torch.bool)
    tokens = torch.randn(2, 8, 16, 16)
    arguments = (label, label == 255, tokens, inside, units(2, 8), units(1, 8))
    with pytest.raises(InputError, match=r"plm: .* more than .* 255"):
        sampler(
            torch.randn(2, 8, 4, 4),
            torch.randn(2, 3, 4, 4),
            *arguments,
            torch.tensor([1]),
            torch.tensor(1.0),
        )


# --- L_nel ---------------------------------------------------------------------------------------


def slow_non_exclusive(logits, label, own: NonExclusiveSettings):
    """ZegCLIP's formulas, mask by mask."""
    focal = dice = masks = 0
    for image, one in zip(logits, label, strict=True):
        known = one != 255
        for c, plane in enumerate(image):
            target, p = (one == c).double(), plane.sigmoid()
            p_t = torch.where(target > 0, p, 1 - p)
            value = -((1 - p_t) ** own.gamma) * p_t.log()
            if own.balance is not None:
                value = value * torch.where(target > 0, own.balance, 1 - own.balance)
            focal += value.mean() if own.ignored == "negative" else value[known].mean()
            if target.any():
                masks += 1
                dice += 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    return own.weight * (own.focal_weight * focal + own.dice_weight * dice) / masks


@pytest.mark.parametrize(
    "changes",
    [{}, {"ignored": "out", "gamma": 0.5}, {"balance": None, "dice_weight": 3.0, "weight": 0.5}],
)
def test_the_non_exclusive_loss_against_a_loop(changes):
    settings = NonExclusiveSettings(**changes)
    logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 2, (2, 4, 5))
    label[:, 0, :3] = 255
    there = torch.ones(2, 3, dtype=torch.bool)
    found = non_exclusive_loss(logits, label, there, settings)
    wanted = slow_non_exclusive(logits.double(), label, settings)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)


def test_logits_that_an_image_has_not_do_not_count():
    logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 2, (2, 4, 5))
    there = torch.tensor([[True, True, False]] * 2)
    found = non_exclusive_loss(logits, label, there, NonExclusiveSettings())
    fewer = non_exclusive_loss(logits[:, :2], label, there[:, :2], NonExclusiveSettings())
    torch.testing.assert_close(found, fewer)


def test_nothing_but_ignored_pixels_has_a_finite_loss():
    logits, label = torch.randn(1, 3, 4, 5, requires_grad=True), torch.full((1, 4, 5), 255)
    there = torch.ones(1, 3, dtype=torch.bool)
    loss = non_exclusive_loss(logits, label, there, NonExclusiveSettings(ignored="out"))
    loss.backward()
    assert loss == 0
    assert logits.grad.isfinite().all()
