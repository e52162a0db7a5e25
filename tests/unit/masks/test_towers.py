"""Mask refinements that ask for a tower: what they see, what it costs the others, what counts."""

import importlib
import sys

import numpy as np
import pytest
import torch
import yaml
from synthetic import REPOSITORY

from clip_wsss.cams.context import HELD, look
from clip_wsss.core.archives import Archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import ImageMaps, write_maps
from clip_wsss.core.methods import add_plugins, method
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.write import decided, mask_context, refined_by, write_masks
from clip_wsss.models.opening import open_tower
from clip_wsss.prompts.texts import text_features
from clip_wsss.runs.config import load_config, merge
from clip_wsss.runs.fingerprint import module_files
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.nodes import TOWERS
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.table import read_runs

MODULE = """
from typing import Annotated

import numpy as np
from pydantic import Field

from clip_wsss import Names, Settings
from clip_wsss.core.maps import upsample_maps


class Near(Settings):
    share: float = 0.5
    tower: Annotated[str, Names("model")] | None = Field(None, description="that is asked")


asked = []


def near(context, settings: Near):
    seen = context.tower_of(settings.tower)
    assert context.tower_of(settings.tower) is seen
    asked.append((context, seen))
    if seen.texts is None:
        likeness = seen.attention(-1).mean(dim=0).expand(len(context.keys), -1)
    else:
        likeness = (seen.texts @ seen.features.T).clamp(min=0)
    full = upsample_maps(likeness.unflatten(1, seen.grid).numpy(), context.size)
    scores = context.scores.astype(np.float32)
    scores[1:] += settings.share * full
    return scores


def lit(context, settings: Near):
    return context.tower_of(settings.tower).features.mean(dim=1).unflatten(0, context.grid)


def words(context):
    asked.append((context, None))
    return context.scores.astype(np.float32)
"""
SIZE, KEYS = (20, 30), [14, 3]
RENAMED = ["person with clothes,people,human", "boat"]  # what `synonyms` calls them
HEAD = "name\tbase\ttexts\tcam\taffinity\tmasks\n"
ROWS = (
    "own\t\tphoto\tsoftmax\tcaa\tnear\n"
    "other\t\tsynonyms\tsoftmax\tcaa\tnear,near.tower=exact\n"
    "plain\t\tsynonyms\tplain\t-\targmax\n"
    "said\t\tsynonyms\tplain\t-\targmax,refinement=towered:words\n"
)
EXACT = {
    "architecture": "src/clip_wsss/demo/clip/model.json",
    "weights": "src/clip_wsss/demo/clip/demo-clip.safetensors",
    "license": "of the tower",
}


@pytest.fixture
def towered(tmp_path, monkeypatch):
    """The module of the refinements, in a file beside the config."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("CLIP_WSSS_PLUGINS", "")
    (tmp_path / "towered.py").write_text(MODULE, encoding="utf-8")
    add_plugins(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "towered", raising=False)
    return method("refinement", "towered:near").function.__globals__


@pytest.fixture
def planned(tmp_path, towered):
    """A function of rows and changes of the demo's config that gives the plan."""

    def plan(rows=ROWS, **change):
        content = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))
        entry = {"refinement": "towered:near", "near": {"share": 0.25}}
        own = {"models": {"exact": EXACT}, "masks": {"near": entry}}
        content = merge(merge(content, own), change)
        (tmp_path / "rows.tsv").write_text(HEAD + rows, encoding="utf-8")
        content["runs"] = {"tables": [str(tmp_path / "rows.tsv")]}
        config = load_config(content, str(tmp_path / "config.yaml"))
        return Plan(Graph(config, read_runs(config)))

    return plan


class Images:
    """A data set of three images of noise."""

    def __init__(self):
        self.settings = {"on_bad_image": "fail"}

    def image(self, name):
        return np.random.default_rng(ord(name)).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def made(plan, run, folder, device="cpu", workers=1):
    """What a job of masks writes of some maps: the archive, and the maps."""
    rng = np.random.default_rng(0)
    found = [ImageMaps(n, SIZE, np.array(KEYS), rng.random((2, 3, 4), np.float32)) for n in "abc"]
    write_maps(folder / "maps.npz", found)
    node = plan.graph.paths[run]["masks"]
    seen = {**plan.seen(node), "file": str(folder / "texts.npz")}
    out = folder / f"{run}-{device}-{workers}.zip"
    rest = ([folder / "maps.npz"], out, workers, device, seen)
    write_masks(Images(), list("abc"), node.settings, *rest)
    return out, found


def test_a_refinement_sees_the_clip_and_the_texts_of_its_maps(planned, towered, tmp_path):
    plan = planned()
    out, maps = made(plan, "own", tmp_path)
    clip = open_tower(plan.config.models["demo"].model_dump())
    names = list(plan.graph.vocabulary.classes)
    words = plan.graph.vocabulary.background("clip-es")
    foreground, background = text_features(clip, ["a photo of a {}."], names, words)
    archive, entry = Archive(out), plan.graph.paths["own"]["masks"].settings
    for (context, asked), image in zip(towered["asked"], maps, strict=True):
        rgb = Images().image(image.id)
        (looked,) = look(clip, clip.preprocess(rgb)[None], HELD)
        features = clip.patches(looked.streams[-1])[0]
        assert (asked.id, asked.keys, asked.grid) == (image.id, tuple(KEYS), (3, 4))
        assert asked.names == context.names == ["person", "boat"]
        assert asked.background_names == context.background_names == list(words)
        assert torch.equal(asked.texts, foreground[KEYS])
        assert torch.equal(asked.background, background)
        assert torch.equal(asked.pixels, clip.preprocess(rgb))
        assert torch.equal(asked.features, features)
        assert torch.equal(asked.attention(-1), looked.attention(-1))
        other = [["a photo of a boat.", "the boat."]]
        assert torch.equal(asked.text_features(other), clip.encode_texts(other))
        assert asked.maps is None
        assert asked.initial_maps().shape == (2, 3, 4)
        assert asked.view(flip=True).initial_maps().shape == (2, 3, 4)
        assert context.made == {}, "a pass is not kept until the image is written"
        other = mask_context(image.maps, image.keys, rgb, entry, image.id)
        near = (foreground[KEYS] @ features.T).clamp(min=0).unflatten(1, (3, 4)).numpy()
        refined = other.scores.astype(np.float32)
        refined[1:] += 0.25 * towered["upsample_maps"](near, SIZE)
        label, _ = decided(refined, other, entry)
        np.testing.assert_array_equal(archive.label(image.id), label)


def test_bytes_are_the_same_in_other_processes_and_in_one_for_a_gpu(planned, tmp_path):
    plan = planned()
    alone = made(plan, "own", tmp_path)[0].read_bytes()
    assert made(plan, "own", tmp_path, workers=2)[0].read_bytes() == alone
    assert made(plan, "own", tmp_path, "cpu:0")[0].read_bytes() == alone


def test_another_tower_has_no_texts_but_the_words_stay(planned, towered, tmp_path):
    texts = {"foreground": np.ones((20, 128), np.float32), "background": np.ones((25, 128))}
    np.savez(tmp_path / "texts.npz", **texts)
    made(planned(), "other", tmp_path)
    for context, asked in towered["asked"]:
        assert asked.texts is asked.background is None
        assert asked.names == context.names == RENAMED
        assert len(asked.background_names) == 25
        assert asked.attention(-1).shape == (12, 12)
        with pytest.raises(InputError, match=r"tower dino: a setting marked Names"):
            context.tower_of("dino")


def test_who_does_not_ask_loads_no_tower_and_has_the_words(planned, towered, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clip_wsss.masks.towers", None)  # an import would fail
    plan = planned()
    made(plan, "said", tmp_path)
    context = towered["asked"][0][0]
    assert context.names == RENAMED
    assert len(context.background_names) == 25
    with pytest.raises(InputError, match=r"^refinement: it asks for a tower, which only masks"):
        context.tower_of()


def test_predictions_have_no_tower(planned, towered):
    context = MaskContext(np.ones((2, 4, 4), np.float16), np.zeros((4, 4, 3), np.uint8), [0])
    with pytest.raises(InputError, match=r"^refinement: it asks for a tower, which only masks"):
        refined_by({"refinement": "towered:near"}, context)
    entry = {"x": {"refinement": "towered:near", "near": {"tower": "exact"}}}
    with pytest.raises(InputError, match=r"inference.x.near.tower: only a cam, an affinity or"):
        planned(inference=entry)
    entry = {"x": {"refinement": "towered:near", "near": {"share": 0.5}}}
    with pytest.raises(InputError, match=r"inference.x.refinement: towered:near asks for a tower"):
        planned(inference=entry)


def test_a_tower_counts_by_what_it_is_for_those_that_name_it(planned):
    plan = planned()
    own, other, plain, said = (plan.graph.paths[name]["masks"] for name in plan.graph.paths)
    assert (own.towers, other.towers.keys()) == ({}, {"exact"})
    assert [TOWERS in one.methods for one in (own, other, plain, said)] == [
        True,
        True,
        False,
        False,
    ]
    assert other.label == "near+share=0.25+tower=clip-128x4"
    rows = ROWS.replace("exact", "renamed")
    renamed = planned(rows, models={"renamed": EXACT}).graph.paths["other"]["masks"]
    assert renamed.key == other.key
    rounded = planned(models={"exact": {**EXACT, "round_weights": "float16"}})
    assert rounded.graph.paths["other"]["masks"].key != other.key
    assert plan.graph.models(plan.graph.runs[1])["exact"].license == "of the tower"


def test_the_texts_of_a_ranking_are_read_by_those_that_ask(planned):
    plan = planned()
    nodes = {name: path["masks"] for name, path in plan.graph.paths.items()}
    inputs = {name: plan.shard(node, "0000of0001").inputs for name, node in nodes.items()}
    assert [name for name, own in inputs.items() if "texts" in own] == ["other"]
    (texts,) = inputs["other"]["texts"]
    assert texts.files[0].name == "text_features.npz"
    assert plan.seen(nodes["other"])["texts"] is None
    assert plan.seen(nodes["own"])["texts"]["templates"] == ["a photo of a {}."]
    assert plan.seen(nodes["plain"]).keys() == {"names", "background_names"}


def test_the_towers_of_the_cam_come_along(planned):
    cam = {"model": "demo", "method": "towered:lit", "tower": "exact"}
    plan = planned("x\t\tphoto\tlit\t-\tnear\n", cam={"lit": cam})
    node = plan.graph.paths["x"]["masks"]
    assert (plan.seen(node)["towers"].keys(), node.towers) == ({"exact"}, {})


def test_a_row_that_asks_runs_nothing_else_again(planned):
    others = "".join(
        f"{texts}\t\t{texts}\tsoftmax\tcaa\targmax\n" for texts in ("photo", "synonyms")
    )

    def stamps(rows):
        plan = planned(rows)
        nodes = plan.graph.nodes("features", "texts", "cam", "affinity", "masks")
        return {node.folder: plan.stamp(node) for node in nodes}

    before, after = stamps(others), stamps(others + ROWS.partition("plain")[0])
    assert {folder: after[folder] for folder in before} == before
    labels = {folder.rpartition("-")[0] for folder in after.keys() - before.keys()}
    assert labels == {"masks/near+share=0.25", "masks/near+share=0.25+tower=clip-128x4"}


def test_the_code_of_towers_counts_for_those_that_ask_alone():
    without, with_towers = (module_files(f"clip_wsss.masks.{name}") for name in ("write", "towers"))
    towers = {"clip_wsss.models.clip", "clip_wsss.cams.context", "clip_wsss.prompts.texts"}
    assert towers <= with_towers.keys()
    assert not towers & without.keys()
