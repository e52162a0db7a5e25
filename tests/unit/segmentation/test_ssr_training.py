"""SSR's training: clusters, losses, another affinity, resuming (docs/ssr.md)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from online_case import WORDS, OnlineCase, online, row_of, train_row

from clip_wsss.affinities.caa import CaaSettings
from clip_wsss.cams import passes
from clip_wsss.core.archives import Archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import sha256
from clip_wsss.core.maps import min_max
from clip_wsss.core.methods import method
from clip_wsss.data.datasets import open_dataset
from clip_wsss.models.clip import load_for
from clip_wsss.prompts.texts import text_features
from clip_wsss.segmentation import hooks
from clip_wsss.segmentation import predict as prediction
from clip_wsss.segmentation.hooks import latest_checkpoint
from clip_wsss.segmentation.predict import Predictor
from clip_wsss.segmentation.segmentor import build_model, read_segmentor

SGC = {
    "method": "caa",
    **CaaSettings(layers=2, power=1, mask="superpixels", superpixels={"segments": 6}).model_dump(),
}
OWN = {"method": "ssr", "affinity_weight": 0.0, "statistics": "clip", "grid": "ceil"}


def ssr_row(case: OnlineCase, affinity: dict = SGC, **settings) -> dict:
    """SSR's row: 6 updates, clusters before updates 1, 4; aligned scores from update 3 on."""
    own = {"width": 8, "every": 3, "projected_start": 2, "pseudo_label": "cluster", **settings}
    return row_of(case, online(**OWN, **own), affinity)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return OnlineCase(tmp_path_factory.mktemp("ssr"))


@pytest.fixture(scope="module")
def texts(case):
    clip = row_of(case)["online"]["clip"]
    foreground, background = text_features(load_for(clip, clip, "cpu"), **WORDS)
    path = case.root / "features.npz"
    np.savez(path, foreground=foreground.numpy(), background=background.numpy())
    return path


@pytest.fixture(scope="module")
def row(case, tmp_path_factory):
    """An unbroken training."""
    out = tmp_path_factory.mktemp("row")
    train_row(case, out, ssr_row(case))
    return out


def built(case: OnlineCase, texts, **settings):
    entry = ssr_row(case, **settings)
    torch.manual_seed(0)
    return build_model(read_segmentor(entry["segmentor"]), entry, 3, "ssr", texts)


def test_a_killed_training_ends_with_the_same_bytes(case, row, tmp_path, monkeypatch):
    """Prototypes are in the weights, the clusters beside them: killed between two clusterings."""

    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        train_row(case, tmp_path, ssr_row(case))
    monkeypatch.undo()
    path = latest_checkpoint(tmp_path / "work")
    assert path.name == "iter_4.pth"
    kept = torch.load(path, weights_only=True)
    present = [sorted(open_dataset(case.dataset).labels(name)) for name in case.ids]
    for clusters in kept["meta"]["kept"]:
        assert [np.flatnonzero(one >= 0).tolist() for one in clusters.numpy()] == present
    assert kept["state_dict"]["trained.prototypes"].any(dim=2).all()
    assert train_row(case, tmp_path, ssr_row(case)) == sha256(row / "c.pth")
    assert (tmp_path / "log.csv").read_bytes() == (row / "log.csv").read_bytes()


def test_predictions_do_without_what_labels_need(case, row, tmp_path):
    content = torch.load(row / "c.pth", weights_only=True)["state_dict"]
    assert {name.split(".")[1] for name in content if name.startswith("trained")} == {
        *("isa", "tsa", "prototypes", "log_tau")
    }
    assert not any("visual" in name for name in content)
    inference = {"scales": [1.0], "flip": False, "long_side": None}
    classes = ["background", "cat", "dog"]
    predictor = Predictor(ssr_row(case), inference, row / "c.pth", classes, "cpu")
    assert predictor.probabilities(np.zeros((40, 48, 3), np.uint8)).shape == (3, 40, 48)
    plain = {"scales": [1.0], "flip": False, "refinement": "none"}
    out = tmp_path / "a.zip"
    entry, ids = ssr_row(case), case.ids[:2]
    prediction.label(entry, plain, row / "c.pth", case.dataset, ids, out, None, device="cpu")
    assert set(np.unique(Archive(out).label(ids[0]))) <= {0, 1, 2}


def seen_by(model, case, update: int | None):
    images = open_dataset(case.dataset)
    return model.whole(images.image(case.ids[0]), images.labels(case.ids[0]), update=update)


def test_gradcam_scores_aligned_features_once_it_is_time(case, texts):
    model = built(case, texts)
    clips = [model._labels.cams(seen_by(model, case, update))[0][0] for update in (2, 3, None)]
    assert torch.equal(clips[1], clips[2])
    assert not torch.allclose(clips[0], clips[1])
    plain = built(case, texts, score="clip")
    assert torch.equal(plain._labels.cams(seen_by(plain, case, None))[0][0], clips[0])


def test_the_affinity_is_that_of_the_masks(case, texts):
    """On a whole image of whole patches, what the pass over the images gives offline."""
    model = built(case, texts, score="clip")
    maker, seen = model._labels, seen_by(model, case, None)
    assert (seen.picture(0) == open_dataset(case.dataset).image(case.ids[0])).all()
    maker.scored(seen)
    features = {"own": (maker.foreground, maker.background)}
    cam = {"method": "gradcam", "target": "softmax"}
    wanted = {"cam": passes.CamVariant("own", cam, {"sgc": SGC})}
    images = open_dataset(case.dataset)
    found = dict(passes.compute_pass(images, case.ids[:1], seen.clip, features, wanted))
    ours = min_max(maker.propagated(seen)[0]).float().numpy()
    np.testing.assert_allclose(ours, found[case.ids[0]]["sgc"].maps, atol=1e-4)


def test_threads_change_nothing(case, texts, monkeypatch):
    model = built(case, texts, score="clip")
    maker, seen = model._labels, seen_by(model, case, None)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(maker.scored(seen))
    assert len(found[0]) == len(seen.cams)
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


def test_the_affinity_gets_the_image_of_its_place_as_clip_sees_it(case, texts):
    """The second of a batch of two, whose first is turned."""
    model = built(case, texts, score="clip")
    maker, seen = model._labels, seen_by(model, case, None)
    maker.scored(seen)
    image = open_dataset(case.dataset).image(case.ids[0])
    pair = replace(
        seen,
        images=torch.cat([seen.images.flip(-1), seen.images]),
        streams=[torch.cat([x.flip(1), x, x.flip(1)]) for x in seen.streams],
        attention=torch.cat([seen.attention.flip(-1), seen.attention]),
        keys=[[1], seen.keys[0]],
    )
    given = []
    maker.affinity = lambda context: given.append(context) or context.maps
    pair.cams = [seen.cams[0]] * 2
    maker.propagated(pair)
    (context,) = (one for one in given if one.keys != [1])
    assert (context.image == image).all()
    assert list(context.keys) == list(seen.keys[0])
    torch.testing.assert_close(
        context.looked.pixels, seen.clip.preprocess(image), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(context.looked.streams, seen.streams, atol=0, rtol=0)
    torch.testing.assert_close(context.attention(-2), seen.attention[0, -2], atol=0, rtol=0)


def test_another_tower_is_asked_for_its_attention(case, texts):
    clip = row_of(case)["online"]["clip"]
    mixed = SGC | {"weight": 0.4, "mixed": [{"tower": "other", "weight": 0.6}]}
    entry = ssr_row(case, mixed)
    entry["online"]["towers"] = {"other": {key: clip[key] for key in ("architecture", "weights")}}
    model = build_model(read_segmentor(entry["segmentor"]), entry, 3, "ssr", texts)
    asked, tower = [], model._towers["other"]
    passed = tower.passed
    tower.passed = lambda *a: asked.append(1) or passed(*a)
    assert model._labels(seen_by(model, case, None)).shape == (1, 40, 48)
    assert asked
    entry["online"].pop("towers")
    model = build_model(read_segmentor(entry["segmentor"]), entry, 3, "ssr", texts)
    with pytest.raises(InputError, match="tower other"):
        model._labels(seen_by(model, case, None))


def test_clusters_start_as_classes_and_prototypes_are_their_means(case, texts):
    maker = built(case, texts, normalise=False)._labels
    D = maker.trained.eval().isa.width
    keys = [[0], [0, 1], [1]]
    samples = torch.eye(D)[[0, 0, 1, 1]] + 0.1
    maker.learn(keys, samples)
    assert maker.kept[0].tolist() == [[0, -1], [0, 1], [-1, 1]]
    assert maker.kept[1].tolist() == maker.kept[0].tolist()
    torch.testing.assert_close(maker.trained.prototypes[0], torch.eye(D)[:2] + 0.1)
    torch.testing.assert_close(maker.trained.prototypes[1], maker._aligned_texts()[0])
    swapped = torch.eye(D)[[0, 0, 0, 1]]  # what image 1 shows of class 1 looks like class 0
    maker.learn(keys, swapped)
    assert maker.kept[0].tolist() == [[0, -1], [0, 0], [-1, 1]]


def test_all_losses_reach_what_they_train(case, texts):
    model = built(case, texts, learn_tau=True).train()
    maker = model._labels
    seen = seen_by(model, case, 1)
    maker.learn([[0, 1]], maker.sample(seen))
    maker(seen)
    seen.numbers = [0]
    kept = {"loss_seg": torch.tensor(2.0), "loss_aff": torch.tensor(0.0)}
    losses = maker.losses(seen, kept)
    assert losses["loss_seg"].item() == pytest.approx(0.2)
    losses["loss_proto"].backward()
    assert all(p.grad is not None and p.grad.any() for p in maker.trained.parameters())
    half = built(case, texts, text_share=0.0)._labels
    half.trained.load_state_dict(maker.trained.state_dict())
    half.kept = maker.kept
    alone = half.losses(seen, kept)["loss_proto"]
    assert alone.item() != losses["loss_proto"].item()


def test_the_loss_of_the_prototypes_by_hand(case, texts):
    """Cross entropies of images with the texts' prototypes and of texts with the images'."""
    own = {"text_share": 0.25, "prototype_weight": 2.0, "pseudo_label": "class", "tau": 0.5}
    model = built(case, texts, **own).eval()
    maker, seen = model._labels, seen_by(model, case, 1)
    maker.learn([[0, 1]], maker.sample(seen))
    maker(seen)
    cmpa = maker.trained
    patches = cmpa.isa(seen.clip.patches(seen.streams[2])[0])  # what enters the last of 3 blocks
    images = torch.stack([(c.flatten()[:, None] * patches).sum(0) for c in seen.cams[0]])
    texts = cmpa.tsa(torch.cat([maker.foreground, maker.background]))[:2]
    losses = [
        -torch.log_softmax(F.normalize(x, dim=-1) @ F.normalize(to, dim=-1).T / 0.5, -1)
        .diagonal()
        .mean()
        for x, to in ((images, cmpa.prototypes[1]), (texts, cmpa.prototypes[0]))
    ]
    kept = {"loss_seg": torch.tensor(2.0), "loss_aff": torch.tensor(0.0)}
    found = maker.losses(seen, kept)["loss_proto"]
    torch.testing.assert_close(found, 2 * (0.75 * losses[0] + 0.25 * losses[1]))


@pytest.mark.parametrize("name", ["ssr", "weclip"])
def test_what_is_registered_has_final_labels(name):
    assert method("labels", name).function.final
