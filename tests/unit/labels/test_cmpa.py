"""SSR's alignment: known answers, and the score's gradient against differences (docs/ssr.md)."""

import math

import pytest
import torch
from clip_cases import make_openai_state_dict, random_clip, small_config

from clip_wsss.cams.backward import gradcam_maps
from clip_wsss.cams.targets.logit import logit
from clip_wsss.cams.targets.softmax import softmax
from clip_wsss.labels.cmpa import AlignedClip, Cmpa, kmeans, masked_average, prototype_loss, still
from clip_wsss.labels.ssr import SsrSettings

TAU = torch.tensor(0.05).double()


def cmpa(width: int = 24, classes: int = 3, **settings) -> Cmpa:
    """A small one whose batch norms have seen something."""
    torch.manual_seed(0)
    made = Cmpa(SsrSettings(**{"width": 8, **settings}), width, classes)
    for part in (made.isa, made.tsa):
        part(torch.nn.functional.normalize(torch.randn(64, width), dim=1))
    return made.eval()


def test_the_loss_of_orthogonal_directions_is_known():
    two = torch.eye(2).double()
    known = math.log(1 + math.exp(-1 / TAU))
    assert prototype_loss(two, two, torch.tensor([0, 1]), TAU).item() == pytest.approx(known)
    tau = torch.tensor(0.5).double()
    loss = prototype_loss(two, two, torch.tensor([1, 0]), tau).item()
    assert loss == pytest.approx(math.log(1 + math.exp(2)))


def test_a_class_without_images_is_neither_negative_nor_target():
    three = torch.cat([torch.eye(2), torch.zeros(1, 2)])
    two = prototype_loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), TAU)
    assert prototype_loss(torch.eye(2), three, torch.tensor([0, 1]), TAU) == two
    features = torch.eye(2).requires_grad_()
    loss = prototype_loss(features, three, torch.tensor([2, 2]), TAU)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_kmeans_separates_two_directions_whatever_it_starts_from():
    points = torch.tensor([[1.0, 0], [0.9, 0.1], [1, 0.1], [0, 1], [0.1, 0.9]]).double()
    for first in ([0, 0, 0, 1, 1], [0, 1, 0, 1, 1]):
        means, labels = kmeans(points, torch.tensor(first), 2, 100)
        assert labels.tolist() == [0, 0, 0, 1, 1]
        torch.testing.assert_close(means[0], points[:3].mean(dim=0))
        torch.testing.assert_close(means[1], points[3:].mean(dim=0))
    means, labels = kmeans(points, torch.tensor([0, 1, 0, 1, 1]), 3, 0)
    torch.testing.assert_close(means[1], points[[1, 3, 4]].mean(dim=0))
    assert not means[2].any()
    assert 2 not in labels


def test_a_cluster_that_loses_its_points_keeps_its_mean():
    points = torch.tensor([[0.0], [2.0], [1.0]]).double()
    means, labels = kmeans(points, torch.tensor([0, 0, 1]), 2, 0)
    assert means.tolist() == [[1], [1]]
    assert labels.tolist() == [0, 0, 0]  # the first of equals
    means, labels = kmeans(points, torch.tensor([0, 0, 1]), 2, 5)
    assert means.tolist() == [[1], [1]]
    assert labels.tolist() == [0, 0, 0]


def test_masked_average_pooling_by_hand():
    values = torch.tensor([[1.0, 0], [0, 1], [4, 4]])
    cams = torch.tensor([[1.0, 0.5, 0], [0, 0, 0], [0.2, 0.2, 0.6]])
    wanted = [[2 / 3, 1 / 3], [0, 0], [2.6, 2.6]]
    torch.testing.assert_close(masked_average(values, cams), torch.tensor(wanted))
    found = masked_average(values, cams, 0.3)
    torch.testing.assert_close(found, torch.tensor([wanted[0], [0, 0], [4, 4]]))


@pytest.mark.parametrize("target", [softmax, logit])
def test_the_aligned_scores_gradient_is_that_of_differences(tmp_path, target):
    """The mean over the patches of the gradient at ln_1 of <ISA(v), TSA(t)> / tau."""
    config = small_config()
    clip = random_clip(tmp_path, config, make_openai_state_dict(config))
    own = cmpa(clip.embedding)
    aligned = AlignedClip(clip, own)
    generator = torch.Generator().manual_seed(1)
    grid = (3, 4)
    N = grid[0] * grid[1]
    x = torch.randn(1, 1 + N, clip.width, generator=generator)
    texts = own.aligned(own.tsa(torch.randn(4, clip.embedding, generator=generator))).detach()

    def score(shift):
        """Of class 1 of 2, all patches moved by one vector."""
        a = clip.normed(x)
        a = torch.cat([a[:, :1], a[:, 1:] + shift], dim=1)
        v = clip.image_features(clip.last_block(x, a).float())
        logits = own.aligned(own.isa(v)) @ texts.T / own.tau
        return float(target(logits, 1, 2).detach())

    passed = clip.through_last_block(x, False, grid)
    pooled = passed.pooled.detach().requires_grad_()
    logits = aligned.logit_scale * aligned.project(pooled) @ texts.T
    assert float(target(logits, 1, 2).detach()) == pytest.approx(score(0), rel=1e-4)
    (slope,) = torch.autograd.grad(target(logits, 1, 2).sum(), pooled)
    weights = passed.weights(slope)[0]
    for _ in range(3):
        step = torch.randn(clip.width, generator=generator)
        step /= 50 * step.norm()
        difference = (score(step) - score(-step)) / 2
        assert float(N * weights @ step) == pytest.approx(difference, rel=0.02, abs=1e-6)

    (maps,), _ = gradcam_maps(aligned, x, 2, [(texts[None], target)], False, grid)
    patches = passed.inputs[0, 1:]
    torch.testing.assert_close(maps[0, 1], (patches @ weights).relu(), rtol=1e-4, atol=1e-6)


def test_residual_networks_start_as_clip():
    own = cmpa(residual=True, depth=3)
    x = torch.nn.functional.normalize(torch.randn(5, 24), dim=1)
    torch.testing.assert_close(own.aligned(own.isa(x)), x)
    assert own.prototypes.shape == (2, 3, 24)
    plain = cmpa(depth=1, last="relu")
    assert [type(layer).__name__ for layer in plain.isa] == ["Linear", "BatchNorm1d", "ReLU"]
    assert not torch.equal(plain.isa[0].weight, plain.tsa[0].weight)


def test_scoring_leaves_batch_norms_as_they_are():
    own = cmpa().train()
    before = own.isa[1].running_mean.clone()
    with still(own):
        own.isa(torch.randn(9, 24))
    assert torch.equal(own.isa[1].running_mean, before)
    assert own.isa[1].training
    own.isa(torch.randn(9, 24))
    assert not torch.equal(own.isa[1].running_mean, before)


def test_the_temperature_is_a_parameter_where_it_is_learnt():
    for learnt in (True, False):
        own = cmpa(learn_tau=learnt)
        assert own.log_tau.requires_grad == learnt
        assert float(own.tau.detach()) == pytest.approx(0.05)


def test_a_last_layer_that_residual_overrules_is_refused():
    assert SsrSettings(residual=True).last == "linear"
    with pytest.raises(
        ValueError, match="last: relu: with residual: true the last layer is linear"
    ):
        SsrSettings(residual=True, last="relu")
