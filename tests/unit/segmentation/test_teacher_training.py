"""Trainings that a frozen CLIP teaches: what it sees, what is kept, how they resume."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_cases import make_openai_state_dict, small_config, write_model
from segmentation_case import CLASSES, Case

from clip_wsss.core.confidence import EDGES, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import sha256
from clip_wsss.core.maps import write_npz
from clip_wsss.models.clip import load_for
from clip_wsss.segmentation import hooks
from clip_wsss.segmentation.hooks import latest_checkpoint
from clip_wsss.segmentation.losses import pack
from clip_wsss.segmentation.predict import Predictor
from clip_wsss.segmentation.segmentor import build_model, read_segmentor
from clip_wsss.segmentation.teacher.frozen import Teacher, inside_of
from clip_wsss.segmentation.train import check_trainings, train

PLM = {"heads": 2, "clustered": "ignored", "fusion": 0.5}
BOTH = {"glm": {"bank": 6}, "plm": PLM}


class TeacherCase(Case):
    """`Case` with a small random CLIP, text features of its width, and dog unseen."""

    def __init__(self, root):
        super().__init__(root)
        config = small_config(patch=8, side=4)
        clip = write_model(root, config, make_openai_state_dict(config))
        trunk = {"precision": "float32", "position_embedding": None}
        self.clip = {**clip, **trunk}
        self.width = load_for(self.clip, self.clip).embedding
        rng = np.random.default_rng(0)
        texts = rng.normal(size=(4, self.width)).astype(np.float32)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        self.features = torch.from_numpy(texts[:2]), torch.from_numpy(texts[2:])
        self.texts = root / "texts.npz"
        write_npz(self.texts, {"foreground": texts[:2], "background": texts[2:]})
        self.dataset |= {"unseen": ["dog"]}

    def taught(self, teacher: dict | None, **changes) -> dict:
        """The entry of a training."""
        head = {"background": "words", "scale": 10.0, "learn_scale": False, "shuffle_texts": None}
        text_head = {**head, "clip": self.clip, "texts": None}
        own = {"text_head": text_head, "seen_only": True, "teacher": teacher}
        return {**self.entry, "loss": "cross-entropy", "mu": 0.0, **own, **changes}

    def fit(self, out, teacher: dict | None, **changes) -> str:
        """Train 6 updates on the CPU, a checkpoint every 2; the checkpoint's hash."""
        places = (out / "work", out / "c.pth", out / "log.csv")
        entry = self.taught(teacher, **changes)
        archives = [str(self.masks)]
        train(entry, self.dataset, archives, 0, *places, device="cpu", texts=self.texts)
        return sha256(out / "c.pth")

    def model(self, teacher: dict, **changes):
        entry = self.taught(teacher, **changes)
        torch.manual_seed(0)
        segmentor = read_segmentor(entry["segmentor"])
        return build_model(segmentor, entry, 3, "x", self.features, [1], taught=True).train()

    def batch(self, label: np.ndarray | None = None, codes: np.ndarray | None = None):
        """Crops of two images, the second padded to the right, with their samples."""
        rng = np.random.default_rng(1)
        inputs = torch.from_numpy(rng.normal(size=(2, 3, 32, 32)).astype(np.float32))
        if label is None:
            label = rng.integers(0, 2, (2, 32, 32)).astype(np.uint8)
            label[:, :, 16:] = 255
        codes = np.full(label.shape, len(EDGES) - 1, np.uint8) if codes is None else codes
        packed = torch.from_numpy(pack(label, codes)).long()
        packed[1, :, 24:] = 255
        samples = [
            SimpleNamespace(
                gt_sem_seg=SimpleNamespace(data=one[None]), metainfo={"img_shape": (32, width)}
            )
            for one, width in zip(packed, (32, 24), strict=True)
        ]
        return inputs, samples


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return TeacherCase(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def both(case, tmp_path_factory):
    """An unbroken training with GLM and PLM."""
    out = tmp_path_factory.mktemp("both")
    case.fit(out, BOTH)
    return out


def test_a_killed_training_ends_with_the_same_bytes(case, both, tmp_path, monkeypatch):
    """The bank is in the checkpoint: killed after 5 of 6 updates, resumed after the fourth."""

    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 10:  # iterations, two an update
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        case.fit(tmp_path, BOTH)
    monkeypatch.undo()
    path = latest_checkpoint(tmp_path / "work")
    assert path.name == "iter_8.pth"
    kept = torch.load(path, weights_only=True)["state_dict"]
    assert int(kept["glm.held"]) == 6
    assert len(kept["glm.bank"].unique(dim=0)) > 1
    assert case.fit(tmp_path, BOTH) == sha256(both / "c.pth")
    assert (tmp_path / "log.csv").read_bytes() == (both / "log.csv").read_bytes()


def test_a_lost_bank_would_be_another_training(case, both, tmp_path, monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr(
        "clip_wsss.segmentation.teacher.glm.GLMHead._earlier", lambda self: self.bank[:0]
    )
    assert case.fit(tmp_path, BOTH) != sha256(both / "c.pth")


def test_nothing_of_clip_is_in_a_checkpoint_and_predictions_load_none(case, both, monkeypatch):
    content = torch.load(both / "c.pth", weights_only=True)["state_dict"]
    kinds = {name.split(".")[0] for name in content}
    assert kinds == {"backbone", "decode_head", "glm", "plm"}
    assert {name for name in content if name.startswith("glm")} == {"glm.bank", "glm.held"}
    assert all(name.startswith("plm.synthesiser.decoder") for name in content if name[:3] == "plm")
    monkeypatch.setattr("clip_wsss.models.clip.load_clip", None)
    entry = case.taught(BOTH)
    predictor = Predictor(entry, case.inference, both / "c.pth", CLASSES, "cpu")
    assert predictor.probabilities(np.zeros((40, 48, 3), np.uint8)).shape == (3, 40, 48)
    names = {name.split(".")[0] for name in predictor.model.state_dict()}
    assert names == {"backbone", "decode_head"}


@pytest.mark.parametrize(
    ("teacher", "wanted"),
    [
        ({"glm": {}}, {"decode.loss_seg", "teacher.loss_global"}),
        ({"plm": PLM}, {"decode.loss_seg", "teacher.loss_nel", "teacher.loss_bce"}),
        (BOTH, {f"teacher.loss_{x}" for x in ("global", "nel", "bce")} | {"decode.loss_seg"}),
    ],
)
def test_each_part_has_its_losses_and_clip_no_gradient(case, teacher, wanted):
    model = case.model(teacher)
    losses = model.loss(*case.batch())
    assert losses.keys() == wanted
    sum(losses.values()).backward()
    assert all(value.isfinite() and value > 0 for value in losses.values())
    untouched = {name for name, one in model.named_parameters() if one.grad is None}
    assert untouched == set()
    assert not any(one.requires_grad for one in model._frozen.clip.network.parameters())
    assert not any("network" in name for name, _ in model.named_parameters())


def test_glm_alone_leaves_the_labels_loss_as_it_is(case):
    """What the base class computes of the same head and labels."""
    model = case.model({"glm": {}})
    inputs, samples = case.batch()
    torch.manual_seed(0)
    found = model.loss(inputs, samples)["decode.loss_seg"]
    torch.manual_seed(0)
    wanted = model.decode_head.loss(model.extract_feat(inputs), samples, {})["loss_seg"]
    assert torch.equal(found, wanted)


def test_the_loss_of_filled_labels_by_hand(case, monkeypatch):
    """Every pixel but padding is in the loss; pseudo classes are further logits of the softmax."""
    model = case.model({"plm": PLM})
    made = []
    own = model.plm.forward
    monkeypatch.setattr(model.plm, "forward", lambda *a: made.append(own(*a)) or made[-1])
    inputs, samples = case.batch()
    found = model.loss(inputs, samples)["decode.loss_seg"]
    (filled,) = made
    label = filled.label
    assert (label[0] != 255).all()
    assert (label[1, :, :24] != 255).all()
    assert (label[1, :, 24:] == 255).all()
    assert (label[:, :, 16:24] >= 3).all()
    assert (label[:, :, :16] < 2).all()
    logits = F.interpolate(filled.logits, (32, 32), mode="bilinear", align_corners=False)
    losses = []
    for image, there, one in zip(logits, filled.there, label, strict=True):
        known = one != 255
        losses.append(F.cross_entropy(image[there][:, known].T, one[known], reduction="none"))
    torch.testing.assert_close(found, torch.cat(losses).mean())
    assert int(model.decode_head.loss_decode.pixels) == 2 * 32 * 16  # those of the masks


def test_pixels_below_mu_are_filled_too(case, monkeypatch):
    """The weak reading: what CGL drops gets pseudo classes."""
    model = case.model({"plm": PLM}, loss="confidence-guided", mu=0.9, seen_only=False)
    label = np.zeros((2, 32, 32), np.uint8)
    codes = np.broadcast_to(encode(np.array([0.95, 0.85]))[:, None], (2, 16))
    codes = np.broadcast_to(codes.reshape(32), (2, 32, 32)).copy()
    made = []
    own = model.plm.forward
    monkeypatch.setattr(model.plm, "forward", lambda *a: made.append((a, own(*a))) or made[-1][1])
    model.loss(*case.batch(label, codes))
    (given, filled) = made[0]
    empty = given[3]
    assert not empty[:, :, :16].any()
    assert empty[0, :, 16:].all()
    assert not empty[1, :, 24:].any()  # padding
    assert (filled.label[0, :, 16:] >= 3).all()
    assert int(model.decode_head.loss_decode.pixels) == 2 * 32 * 16  # those of the masks


def test_clip_sees_the_crop_with_its_own_statistics(case):
    """BGR in, as the data give it; the student's mean and deviation are taken back."""
    model = case.model({"glm": {}})
    bgr = torch.randint(0, 256, (2, 3, 32, 32)).byte()
    given = model.data_preprocessor({"inputs": list(bgr)})["inputs"]
    torch.testing.assert_close(model._pixels(given), bgr.flip(1).float(), atol=1e-3, rtol=0)
    model.data_preprocessor.channel_conversion = False
    given = model.data_preprocessor({"inputs": list(bgr)})["inputs"]
    torch.testing.assert_close(model._pixels(given), bgr.flip(1).float(), atol=1e-3, rtol=0)
    clip = load_for(case.clip, case.clip)
    rgb = bgr.flip(1).float()
    whole = torch.ones(2, 32, 32, dtype=torch.bool)
    seen = Teacher(clip, "crop").look(rgb, whole, "output")
    images = [clip.preprocess(one.permute(1, 2, 0).numpy().astype(np.uint8)) for one in rgb]
    batch = torch.stack(images)
    torch.testing.assert_close(seen.cls, clip.cls_features(batch), atol=1e-5, rtol=1e-4)
    tokens = clip.patches(clip.trunk(batch, 0)[0])
    torch.testing.assert_close(seen.tokens.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-4)
    values = Teacher(clip, "crop").look(rgb, whole, "values").tokens
    assert not torch.allclose(values, seen.tokens)
    larger = Teacher(clip, "native").look(
        torch.cat([rgb, rgb], 3), torch.cat([whole, whole], 2), None
    )
    assert larger.inside.shape[1:] == clip.native
    assert larger.tokens is None


def test_cls_does_not_look_at_padding(case):
    clip = load_for(case.clip, case.clip)
    teacher, rgb = Teacher(clip, "crop"), torch.randint(0, 256, (1, 3, 32, 32)).float()
    samples = [SimpleNamespace(metainfo={"img_shape": (32, 20)})]
    inside = inside_of(samples, (32, 32), rgb.device)
    assert inside.sum() == 32 * 20
    found = teacher.look(rgb, inside, None)
    wanted = torch.arange(4).expand(1, 4, 4) < 3  # whole and part patches of 8
    assert torch.equal(found.inside, wanted)
    batch = clip.preprocess(rgb[0].permute(1, 2, 0).byte().numpy())[None]
    seen = clip.cls_features(batch, wanted.flatten(1))
    torch.testing.assert_close(found.cls, seen, atol=1e-4, rtol=1e-4)
    everything = teacher.look(rgb, torch.ones_like(inside), None).cls
    assert not torch.allclose(everything, seen, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "MultiScaleSegmentor"}, "x: model.type: teacher needs .* EncoderDecoder; got M"),
        ({"type": "EncoderDecoder"}, None),
    ],
)
def test_a_segmentor_of_another_frame_is_one_line(case, change, message):
    segmentor = read_segmentor(case.entry["segmentor"])
    segmentor.model.update(change)
    entry = case.taught(BOTH)
    if message is None:
        assert build_model(segmentor, entry, 3, "x", case.features).unneeded == ("glm.", "plm.")
        return
    with pytest.raises(InputError, match=message):
        build_model(segmentor, entry, 3, "x", case.features)


def test_processes_that_have_whole_batches_are_refused(case, tmp_path):
    """The bank of a batch is that of the batches before it."""
    places = (tmp_path / "w", tmp_path / "c.pth", tmp_path / "l.csv")
    arguments = (case.taught(BOTH), case.dataset, [str(case.masks)], 0, *places)
    with pytest.raises(InputError, match=r"4 processes cannot share .* divisor of batch_size, 2$"):
        train(*arguments, device="cpu", texts=case.texts, gpus=4)


def test_pseudo_classes_alone_teach_no_class(case, tmp_path):
    """What PLM fills is no pixel of the masks that has counted."""
    with pytest.raises(InputError, match="no pixel of the masks has counted"):
        case.fit(tmp_path, BOTH, loss="confidence-guided", mu=1.0, seen_only=False)


def test_the_check_builds_the_teacher_too(case):
    assert check_trainings({"t": case.taught(BOTH)}, 3) == []
    (said,) = check_trainings({"t": case.taught({"plm": {"heads": 7}})}, 3)
    assert said.startswith("t: segmentation.teacher.plm")
    away = case.taught({"plm": {"heads": 7}})
    away["text_head"]["clip"] |= {"weights": "nowhere.pt"}
    assert check_trainings({"t": away}, 3) == []  # the training says it, once they are there
