"""Masks in a few lines of Python: the labels of a run, one's own words, and bad input in a line."""

import io
import itertools
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import synthetic
from PIL import ExifTags, Image

import clip_wsss
from clip_wsss import api
from clip_wsss.api import Segmenter, read_preset
from clip_wsss.cams.passes import CamVariant, write_pass
from clip_wsss.core.archives import Archive
from clip_wsss.core.confidence import encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_rgb
from clip_wsss.demo.build import build
from clip_wsss.masks.write import write_masks
from clip_wsss.models.clip import load_for
from clip_wsss.prompts.texts import text_features
from clip_wsss.runs.plan import make_plan

DEMO = str(synthetic.REPOSITORY / "config/config.yaml")
QUICK = f"{DEMO}:clip-es,masks.crf.backend=fast"


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The demo's rows with six scenes, and nothing made."""
    folder = tmp_path_factory.mktemp("scenes")
    build(folder / "data", {"seed": 1, "train": 6, "val": 1})
    return make_plan(synthetic.content(folder), DEMO, root=folder / "results")


@pytest.fixture(scope="module")
def pairs(plan):
    """The files of the scenes, and their labels by name."""
    data, classes = plan.dataset, plan.dataset.vocabulary.classes
    return [(data.image_path(n), [classes[k] for k in data.labels(n)]) for n in data.ids("train")]


@pytest.fixture(scope="module")
def segmenter():
    """The demo's clip-es, loaded once."""
    return Segmenter(QUICK, device="cpu")


def job(plan, row: str) -> Archive:
    """The masks of a row as the jobs of maps and masks write them, in one shard."""
    path, data = plan.graph.paths[row], plan.dataset
    node, ids = path["affinity"], data.ids("train")
    own = next(one for one in plan.graph.passes.values() if node in one.nodes)
    one = plan.variants(own, [node])
    clip = load_for(one["cam"], one["cam"]["model"], "cpu")
    texts = {name: text_features(clip, **text) for name, text in one["texts"].items()}
    cams = {name: CamVariant(**cam) for name, cam in one["cams"].items()}
    maps, masks = plan.root / f"{row}.npz", plan.root / f"{row}.zip"
    write_pass(data, ids, clip, texts, cams, {node.name: maps}, plan.config.compute.batch)
    write_masks(data, ids, path["masks"].settings, [maps], masks, 1)
    return Archive(masks)


@pytest.mark.parametrize("row", ["clip-es", "corrected"])
def test_labels_and_confidences_are_those_of_a_run(plan, pairs, row):
    archive, batch = job(plan, row), plan.config.compute.batch
    found = list(clip_wsss.segment_all(pairs, f"{DEMO}:{row}", device="cpu", batch=batch))
    assert [one.id for one in found] == archive.ids
    assert len({value for one in found for value in np.unique(one.label)}) > 5
    for one in found:
        np.testing.assert_array_equal(one.label, archive.label(one.id))
        np.testing.assert_array_equal(encode(one.confidence), archive.codes(one.id))


def test_one_picture_has_the_label_it_has_among_others(pairs, segmenter):
    together = list(segmenter.all(pairs))
    for (file, labels), wanted in zip(pairs, together, strict=True):
        for image in (file, str(file), Image.open(file), read_rgb(file)):
            one = clip_wsss.segment(image, labels, QUICK, device="cpu")
            np.testing.assert_array_equal(one.label, wanted.label)
    assert len(api._kept) == 1, "the tower was loaded once"


def test_what_a_mask_holds(pairs, segmenter, tmp_path):
    file, labels = next(pair for pair in pairs if len(pair[1]) > 1)
    mask = segmenter(file, [*labels, labels[0]])
    height, width = Image.open(file).size[::-1]
    assert mask.label.shape == mask.confidence.shape == (height, width)
    assert (mask.label.dtype, mask.confidence.dtype) == (np.uint8, np.float32)
    assert mask.classes == tuple(labels)
    assert set(np.unique(mask.label)) <= {0, *mask.values}
    assert [segmenter.vocabulary.classes[value - 1] for value in mask.values] == labels
    assert mask.cams.shape[0] == len(labels)
    assert mask.heat().shape == (len(labels), height, width)
    kept = mask.kept(0.9)
    np.testing.assert_array_equal(kept == 255, mask.confidence < np.float32(0.9))
    assert (kept[kept != 255] == mask.label[kept != 255]).all()
    named = ", ".join(f"{n} {name}" for n, name in zip(mask.values, labels, strict=True))
    shown = f"PseudoMask('{mask.id}', {width} x {height}, labels 0 background, {named})"
    assert repr(mask) == shown
    mask.save(tmp_path / "a b" / "one.png")
    np.testing.assert_array_equal(Image.open(tmp_path / "a b" / "one.png"), mask.label)


def test_processes_change_nothing(pairs, segmenter):
    workers = Segmenter(QUICK, device="cpu", workers=2)
    for one, other in zip(segmenter.all(pairs[:3]), workers.all(pairs[:3]), strict=True):
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_grey_and_transparent_pictures(pairs, segmenter):
    rgb = read_rgb(pairs[0][0])
    grey, labels = rgb[..., 1], pairs[0][1]
    thrice = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(segmenter(grey, labels).label, segmenter(thrice, labels).label)
    alpha = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    alpha[0, 0] = 255
    white = np.full_like(rgb, 255)
    np.testing.assert_array_equal(segmenter(alpha, labels).label, segmenter(white, labels).label)


def test_photographs_that_viewers_turn(pairs, segmenter, tmp_path):
    (file, labels), path = pairs[0], tmp_path / "phone.png"
    upright = Image.fromarray(read_rgb(file)[:80])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored a quarter turn to the left
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif)
    with pytest.raises(InputError, match=r"EXIF orientation 6, .* orientation turned or stored"):
        segmenter(path, labels)
    for orientation, wanted in (("turned", upright), ("stored", stored)):
        own = Segmenter(QUICK, device="cpu", orientation=orientation)
        own._clip = segmenter._clip
        for image in (path, Image.open(path)):
            np.testing.assert_array_equal(own(image, labels).label, segmenter(wanted, labels).label)
    with pytest.raises(InputError, match="orientation: must be one of refuse, turned, stored"):
        Segmenter(QUICK, orientation="up")


def test_words_of_ones_own_count_from_one_and_are_no_background(pairs):
    own = Segmenter(QUICK, classes=["tree", "dog"], device="cpu")
    assert own.vocabulary.classes == ("tree", "dog")
    assert "tree" not in own.settings["background"]
    assert "sky" in own.settings["background"]
    fused = Segmenter(QUICK, classes={"pond": "lake, Water"}).settings["background"]
    assert set(own.settings["background"]) - set(fused) == {"lake", "water"}
    mask = own(pairs[0][0], "dog")
    assert (mask.classes, mask.values) == (("dog",), (2,))
    said = Segmenter(QUICK, classes={"person": "person with clothes"}, background=["sea"])
    assert said.names == {"person": "person with clothes"}
    assert said.settings["background"] == ["sea"]
    view = Segmenter(QUICK, classes={"tree": 0, "dog": 1}.keys(), device="cpu")
    assert view.vocabulary.classes == ("tree", "dog"), "keys of a dict have an order"


def test_own_words_that_are_the_presets_give_its_labels(pairs, segmenter):
    own = Segmenter(QUICK, classes=segmenter.names, device="cpu")
    assert own.settings == segmenter.settings
    coco = Segmenter(QUICK.replace("clip-es,", "corrected,"), classes="coco14")
    assert coco.vocabulary.classes[1] == "bicycle"
    assert len(coco.vocabulary.classes) == 80


def test_many_are_read_as_they_are_needed_and_may_have_ids(pairs, segmenter):
    file, labels = pairs[0]
    endless = ((file, labels, f"frame {number}") for number in itertools.count())
    first, second = itertools.islice(segmenter.all(endless), 2)
    np.testing.assert_array_equal(first.label, second.label)
    assert (first.id, second.id) == ("frame 0", "frame 1")


@pytest.mark.parametrize("kind", [list, iter])
def test_pictures_of_one_id_are_refused_before_work(pairs, segmenter, tmp_path, kind):
    file, labels = pairs[0]
    again = shutil.copy(file, tmp_path)
    many = [(file, labels), *[(PICTURE, "dog")] * 40, (again, labels)]
    found, line = segmenter.outcomes(kind(many)), f"{again}: has the id `{file.stem}` of {file}; re"
    with pytest.raises(InputError, match=re.escape(line)):
        next(found) if kind is list else list(found)
    with pytest.raises(InputError, match=r"image-2: has the id `image-2` of image-2\.png; ren"):
        list(segmenter.all([("image-2.png", "dog"), (PICTURE, "dog")]))
    with pytest.raises(InputError, match="pairs: the id of image-1 must be text; got 3"):
        list(segmenter.all([(PICTURE, "dog", 3)]))


def test_settings_of_entries_make_a_preset():
    row = read_preset(QUICK).stages
    cells = read_preset({"config": DEMO, "texts": "clip-es", "cam": "clip-es",
                         "affinity": "clip-es", "masks": "clip-es,crf.backend=fast"})  # fmt: skip
    assert cells.stages == row
    entries = {group: getattr(row, group).model_dump() for group in api.MASK_GROUPS}
    assert read_preset({"config": DEMO, **entries}).stages.masks == row.masks
    bare = read_preset({"config": DEMO, "texts": "photo", "cam": "plain"}).stages
    assert (bare.affinity, bare.masks.refinement) == (None, "none")


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        ("clip-se", "unknown row `clip-se`; did you mean `clip-es`?"),
        ("caa", "ranks its templates on a data set"),
        ("full", "makes no masks from maps"),
        ("clip-es,masks.crf.backend=gpu", "crf.backend: must be one of pydensecrf, fast, torch"),
        ("clip-es,crf=2", "`crf=2` must be group.key=value"),
        ("no.yaml:clip-es", "no.yaml: there is no such file"),
        ({"texts": "clip-es"}, "makes no masks from maps"),
        ({"text": "clip-es"}, "unknown key `text`; did you mean `texts`?"),
        ({"cam": {"model": "vit"}, "texts": "clip-es"}, "cam.model: unknown model `vit`"),
    ],
)
def test_a_wrong_preset_is_one_line(preset, line):
    with pytest.raises(InputError) as error:
        Segmenter(preset)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


PICTURE = np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", api.ORIENTATIONS)
def test_closed_and_damaged_pictures_of_pillow_are_one_line(segmenter, tmp_path, kind, orientation):
    own = Segmenter(QUICK, device="cpu", orientation=orientation)
    own._clip = segmenter._clip
    file = tmp_path / "picture"
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, kind)
    closed, data = Image.open(file), file.read_bytes()
    closed.close()
    half = Image.open(io.BytesIO(data[: len(data) // 2]))
    first, second, good = own.outcomes([(closed, "dog"), (half, "dog"), (PICTURE, "dog")])
    assert str(first).startswith("image-1: cannot be read (Operation on closed image); open the fi")
    assert str(second).startswith("image-2: cannot be read (image file is truncated")
    assert good.label.shape == (16, 16)


def test_what_a_mask_refuses(segmenter, tmp_path):
    mask = segmenter(PICTURE, "dog")
    for mu in ("x", None, [0.5]):
        with pytest.raises(
            InputError, match=re.escape(f"mu: must be a number from 0 to 1; got {mu!r}")
        ):
            mask.kept(mu)
    np.testing.assert_array_equal(mask.kept(np.float32(0.9)), mask.kept(0.9))
    for name in ("x.jpg", "x"):
        with pytest.raises(
            InputError, match=rf"{name}: a mask is written as a PNG; end the name in"
        ):
            mask.save(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"x\.png: cannot be written \(.*\); name another file"):
        mask.save(tmp_path / "file" / "x.png")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    mask.save(tmp_path / "X.PNG")


@pytest.mark.parametrize(
    ("image", "labels", "line"),
    [
        (PICTURE, ["dgo"], "image-1: unknown class `dgo`; did you mean `dog`?"),
        (PICTURE, [], "image-1: has no labels; name a class or more"),
        (PICTURE, "", "image-1: has no labels"),
        (PICTURE.astype(float), ["dog"], "must be uint8 of shape (H, W, 3), (H, W, 4) or (H, W)"),
        (PICTURE[..., :2], ["dog"], "got uint8 of (16, 16, 2)"),
        (PICTURE[:0], ["dog"], "got uint8 of (0, 16, 3)"),
        (Image.new("F", (4, 4)), ["dog"], "floating point, whose white is not defined"),
        (7, ["dog"], "must be a path, an array or an image of Pillow; got int"),
        ("no such.jpg", ["dog"], "no such.jpg: no such image"),
        (DEMO, ["dog"], "config.yaml: not an image of a known format"),
    ],
)
def test_a_bad_picture_is_one_line_and_stops_no_other(segmenter, image, labels, line):
    bad, good = segmenter.outcomes([(image, labels), (PICTURE, ["dog"])])
    assert isinstance(bad, InputError)
    assert line in str(bad)
    assert "\n" not in str(bad)
    assert good.label.shape == (16, 16)
    with pytest.raises(InputError):
        segmenter(image, labels)


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ([], "classes must be a list of 1 to 254 names"),
        (["dog", "dog"], "classes: a name is given twice"),
        (["background"], "classes lists `background`"),
        ("no.yaml", "no.yaml: there is no such file"),
    ],
)
def test_wrong_classes_are_one_line(classes, line):
    with pytest.raises(InputError, match=line):
        Segmenter(QUICK, classes=classes)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"background": "sky"}, "background: must be a list of words; got 'sky'"),
        ({"background": [1]}, r"background: must be a list of words; got \[1\]"),
        ({"classes": [1, 2]}, r"classes: must be a list of words; got \[1, 2\]"),
        ({"classes": {"dog": None}}, "classes: must be a list of words"),
        ({"classes": {"dog"}}, "classes: must be a list of words; got {'dog'}"),
        ({"classes": frozenset({"dog"})}, "classes: must be a list of words; got frozenset"),
        (
            {"background": ["sky", "dog"]},
            "background: `dog` is what prompts call dog in classes, too",
        ),
        (
            {"background": ["a Sofa"], "classes": {"couch": "a sofa"}},
            "^background: `a Sofa` is what",
        ),
        ({"background": ["sky", "Sky"]}, "^background lists `sky` more than once"),
        ({"background": ["sky", " "]}, "^background must be a list of words$"),
        ({"background": {"sky"}}, "background: must be a list of words; got {'sky'}"),
        ({"background": {"sky": "x"}}, "background: must be a list of words; got {'sky': 'x'}"),
        ({"workers": "2"}, "workers: must be an integer of at least 1; got '2'"),
        ({"batch": 0}, "batch: must be an integer of at least 1; got 0"),
        ({"batch": True}, "batch: must be an integer of at least 1; got True"),
    ],
)
def test_settings_of_another_kind_are_one_line(settings, line):
    with pytest.raises(InputError, match=line):
        Segmenter(QUICK, **settings)


def test_a_preset_of_another_kind_is_one_line():
    with pytest.raises(InputError, match="preset: must be a row of a runs table or a mapping; got"):
        Segmenter(None)


def test_a_device_that_cannot_be_is_one_line():
    with pytest.raises(InputError, match="must be auto, cpu, cuda or cuda:<number>; got 'gpu'"):
        Segmenter(QUICK, device="gpu")(PICTURE, "dog")


@pytest.mark.parametrize("labels", [None, 3, [1], [None], {"dog"}, {"dog": 0, "cat": 1}])
def test_labels_of_another_kind_are_one_line(segmenter, labels):
    with pytest.raises(InputError, match="labels: must be the name of a class or a list of names"):
        segmenter(PICTURE, labels)


@pytest.mark.parametrize("pair", [PICTURE, "ab", (PICTURE, "dog", "a", "b")])
def test_what_is_no_pair_is_one_line(segmenter, pair):
    with pytest.raises(
        InputError, match="an image and its labels, or these and an id; number 2 is"
    ):
        list(segmenter.all([(PICTURE, "dog"), pair]))


def test_weights():
    with pytest.warns(UserWarning, match="only seen rendered scenes of emoji"):
        demo = Segmenter("clip-es", weights="demo")
    assert demo.model == Segmenter(QUICK).model
    weights = synthetic.REPOSITORY / demo.model.weights
    file = Segmenter("clip-es", weights=weights)  # its config lies beside it
    assert (file.model.weights, file.model.architecture) == (str(weights), None)
    other = Segmenter("clip-es", weights="laion2b_s34b_b88k", architecture="ViT-B-16")
    assert (other.model.weights, other.model.architecture) == ("laion2b_s34b_b88k", "ViT-B-16")
    with pytest.raises(InputError, match=r"no such weight file"):
        Segmenter("clip-es", weights="no.pt")(PICTURE, "dog")


def test_a_tilde_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", str(synthetic.REPOSITORY))
    model = "~/src/clip_wsss/demo/clip/"
    own = Segmenter(
        "~/config/config.yaml:clip-es",
        classes="~/config/vocabularies/coco14.yaml",
        weights=f"{model}demo-clip.safetensors",
        architecture=f"{model}model.json",
    )
    folder = synthetic.REPOSITORY / "src/clip_wsss/demo/clip"
    assert own.model.architecture == str(folder / "model.json")
    assert own.model.weights == str(folder / "demo-clip.safetensors")
    assert len(own.vocabulary.classes) == 80


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    def offline():
        raise OSError("no network")

    monkeypatch.setattr("clip_wsss.models.clip.reach_hub", offline)
    monkeypatch.setattr("clip_wsss.models.clip.downloaded", lambda *_: None)
    with pytest.raises(InputError, match=r"not here and cannot be downloaded \(no network\); a l"):
        Segmenter("clip-es")(PICTURE, "dog")


def test_settings_tell_weights_apart(tmp_path):
    model = synthetic.REPOSITORY / "src/clip_wsss/demo/clip"
    copy = shutil.copy(model / "demo-clip.safetensors", tmp_path / "copied.safetensors")
    architecture = str(model / "model.json")
    one, two = (
        Segmenter("clip-es", weights=path, architecture=architecture).settings
        for path in (copy, model / "demo-clip.safetensors")
    )
    assert one == two
    copy.write_bytes(b"other")
    again = Segmenter("clip-es", weights=copy, architecture=architecture)
    assert again.settings != two


def test_a_map_of_zero_is_said_of_every_picture():
    """Two arrays are both called image-1."""
    code = (
        "import numpy as np, warnings\n"
        "from clip_wsss.api import ZeroMapWarning\n"
        "for _ in range(2):\n"
        "    warnings.warn('image-1: 0 all over', ZeroMapWarning)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("ZeroMapWarning: image-1") == 2
