"""The blocks of docs/formats.md, docs/masks.md and the README are run; figures of pages hold."""

import csv
import itertools
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
import torch
from PIL import Image

from clip_wsss import cli, compare
from clip_wsss.core.plain import read_yaml
from clip_wsss.data import check
from clip_wsss.data.check import write_check
from clip_wsss.demo.build import build
from clip_wsss.export import export_masks
from clip_wsss.models.clip import load_clip
from clip_wsss.prompts.texts import write_image_features, write_texts
from clip_wsss.report import relations
from clip_wsss.runs.plan import make_plan
from clip_wsss.segmentation.hooks import LogHook
from clip_wsss.segmentation.train import _save
from clip_wsss.tables.write import write_tables

README = (synthetic.REPOSITORY / "README.md").read_text("utf-8")
MASKS = (synthetic.REPOSITORY / "docs/masks.md").read_text("utf-8")
FORMATS = (synthetic.REPOSITORY / "docs/formats.md").read_text("utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Results of every kind, and what a run reads, in one folder."""
    folder = tmp_path_factory.mktemp("formats")
    made = synthetic.build(folder)
    plan, graph = made.plan, made.plan.graph
    write_tables(plan)  # first: it checks what the rest of this replaces
    for name in ("config", "src"):
        os.symlink(synthetic.REPOSITORY / name, folder / name)
    _write_texts(made)
    training = made.root / graph.training(graph.paths["seg-cgl"]["segmentation"], 0)
    training.mkdir(parents=True, exist_ok=True)
    log = LogHook(str(training / "log.csv"))
    log.path.write_text("iteration,loss,lr,pixels,of\n1,0.5,0.1,20,40\n")
    loader = SimpleNamespace(dataset=None)
    runner = SimpleNamespace(model=torch.nn.Linear(2, 2), hooks=[log], train_dataloader=loader)
    _save(runner, ["background", "cat"], {"entry": {}, "seed": 0}, training / "checkpoint.pth")
    write_check(made.dataset, plan.uses, made.root / "data/check.json")
    (made.root / "benchmarks").mkdir()
    (made.root / "benchmarks/data.tsv").write_text("s\tmax_rss\n1.5\t20\n")
    masks = [made.root / one for one in graph.shard_files(graph.paths["crf"]["masks"])]
    export_masks(masks, folder / "masks")
    (folder / "labels.csv").write_text("image,labels\nholiday.jpg,dog;person\n")
    return folder


def _write_texts(made) -> None:
    clip = load_clip(made.config.models["demo"].model_dump())
    node = made.plan.graph.paths["crf"]["texts"]
    features = made.plan.features(node.parents[0]).files[0]
    write_image_features(made.dataset, "train", clip, features)
    entry = {**node.settings, "templates": ["a photo of a {}.", "art of the {}."]}
    files = made.plan.texts(node).files
    write_texts(entry, clip, made.dataset, "train", features, *files)


def test_there_are_readers_of_every_file():
    assert len(BLOCK.findall(FORMATS)) == FORMATS.count("```python") == 13
    for block in BLOCK.findall(FORMATS):
        assert "clip_wsss" not in block.replace("src/clip_wsss/demo", "")


@pytest.mark.parametrize("block", BLOCK.findall(FORMATS))
def test_a_reader_runs(project, monkeypatch, block):
    monkeypatch.chdir(project)
    space: dict = {"__name__": "__main__"}
    exec(block, space)
    if "confidence" in space:
        assert 0 <= space["confidence"].min() <= space["confidence"].max() <= 1
        assert space["confidence"].shape == space["label"].shape == (40, 48)
    if "maps" in space:
        assert sum(len(own) for own in space["maps"]) == len(space["shard"]["keys"])
        assert all((len(k) == len(m)) for k, m in zip(space["keys"], space["maps"], strict=True))
    if "dataset" in space:
        assert len(space["dataset"]) == 6
        assert tuple(space["image"].shape[1:]) == tuple(space["label"].shape)


def test_the_notebook_runs(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    file = synthetic.REPOSITORY / "examples/three-pictures.ipynb"
    cells = json.loads(file.read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    space: dict = {}
    with pytest.warns(UserWarning, match="scenes of emoji"):
        exec("\n".join(code), space)
    assert space["score"].images == 3
    assert space["score"].miou > 0.5


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Three scenes as the pages name their pictures, in the working directory."""
    monkeypatch.chdir(tmp_path)
    build(Path("data"), {"seed": 1, "train": 2, "val": 1})
    shutil.copytree("data/JPEGImages", "pictures")
    shutil.copytree("data/SegmentationClass", "SegmentationClass")
    scenes = sorted(Path("pictures").iterdir())
    for name, scene in zip(("holiday.jpg", "sofa.jpg"), scenes, strict=False):
        shutil.copy(scene, name)
    rows = "".join(f"{scene.name},dog;cat\n" for scene in scenes)
    Path("labels.csv").write_text(f"image,labels\n{rows}")
    for name in ("cat", "dog"):
        Path("by-class", name).mkdir(parents=True)
        shutil.copy("sofa.jpg", f"by-class/{name}")


def run_commands(page: str, names: list[str]) -> None:
    commands = [shlex.split(line)[1:] for line in re.findall(r"^clip-wsss .*", page, re.MULTILINE)]
    assert [name for name, *_ in commands] == names
    for line in commands:
        more = ["--weights", "demo"] if line[0] == "masks" else []
        assert cli.main([*line, *more]) == 0, line


@pytest.mark.filterwarnings("ignore:weights. demo")
def test_the_readme_makes_and_scores_masks(pictures, capsys):
    (block,) = BLOCK.findall(README)
    exec(block.replace('"person"]', '"person"], weights="demo"'), {})
    assert set(np.unique(Image.open("holiday.png"))) <= {0, 12, 15}  # of the vocabulary
    run_commands(README, ["masks", "score", "doctor"])
    out = capsys.readouterr().out
    assert "masks: 3 made, 0 kept, 0 bad" in out
    assert "3 images, 95 % intervals over images" in out


@pytest.mark.filterwarnings("ignore:weights. demo")
def test_the_page_of_masks_runs_as_it_stands(pictures, capsys):
    one, many = BLOCK.findall(MASKS)
    space: dict = {}
    exec(one, space)
    assert (space["mask"].classes, space["mask"].values) == (("dog", "person"), (12, 15))
    exec(many, {})
    assert set(np.unique(Image.open("sofa.png"))) <= {0, 1, 2}
    run_commands(MASKS, ["masks", "masks", "masks", "score"])
    assert "masks-own: 2 made, 0 kept, 0 bad" in capsys.readouterr().out


def page(name: str) -> str:
    return " ".join((synthetic.REPOSITORY / name).read_text("utf-8").split())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("docs/results.md", f"intervals over fewer than {check.FEW} images"),
        ("docs/results.md", f"for the {compare.SHOWN} classes that changed most"),
        ("docs/results.md", f"of {relations.MOST_PAIRED} runs at most"),
        ("docs/datasets.md", f"(the first {check.LINES} are shown)"),
    ],
)
def test_a_number_of_a_page_is_the_code_s(name, words):
    assert words in page(name)


def plan_of(config: str):
    return make_plan(read_yaml(synthetic.REPOSITORY / config), config)


def test_the_folder_of_the_page_is_the_demo_s(monkeypatch):
    monkeypatch.chdir(synthetic.REPOSITORY)
    masks = plan_of("config/config.yaml").graph.paths["crf"]["masks"]
    assert page("docs/ablation.md").count(f"results/demo/{masks.folder}/") == 2


def test_the_costs_of_data_sets_count_the_variants_of_their_tables(monkeypatch):
    monkeypatch.chdir(synthetic.REPOSITORY)
    graphs = [plan_of(f"config/{name}.yaml").graph for name in ("voc12", "coco14")]
    cams = [len(graph.nodes("cam")) for graph in graphs]
    masks = [len([n for n in g.nodes("masks") if n.settings["source"] == "maps"]) for g in graphs]
    assert (
        f"has {cams[0]} variants of CAMs, and {masks[0]} of masks besides the ground truth; "
        f"`coco14.tsv` {cams[1]} and {masks[1]}."
    ) in page("docs/datasets.md")


def cells(name: str, heading: str) -> list[list[str]]:
    """The rows below the head of the first table after a heading of a page."""
    text = (synthetic.REPOSITORY / name).read_text("utf-8")
    lines = iter(text.split(heading, 1)[1].splitlines())
    lines = itertools.takewhile(bool, itertools.dropwhile(lambda line: line[:1] != "|", lines))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines][2:]


def rows_of(table: str) -> set[str]:
    lines = (synthetic.REPOSITORY / f"config/runs/{table}").read_text("utf-8").splitlines()[1:]
    return {line.split("\t")[0] for line in lines}


def test_the_systems_of_the_readme_are_rows():
    named = [re.findall(r"`(.+?)`", row) for _, _, row, _ in cells("README.md", "## Systems")]
    assert all(named)
    names = {name for row in named for name in row}
    assert names == rows_of("systems.tsv") | (names & rows_of("tagclip.tsv"))
    assert names & rows_of("tagclip.tsv")


def test_the_systems_of_the_page_are_rows():
    found = set()
    for system, _, _, rows, _ in cells("docs/systems.md", "# Systems"):
        words = re.findall(r"`(.+?)`", rows)
        tables = {word: rows_of(word) for word in words if word.endswith(".tsv")}
        configs = [word for word in words if word.endswith(".yaml")]
        names = {word for word in words if "." not in word}
        assert names <= set().union(*tables.values()), system
        assert all(names & own for own in tables.values()), system
        assert configs, system
        assert all((synthetic.REPOSITORY / config).is_file() for config in configs), system
        found |= names
    assert rows_of("systems.tsv") <= found


def test_published_figures_are_those_of_the_files():
    def quoted(method, data, split):
        """Figures of a method, or of a system under all its methods."""
        with (synthetic.REPOSITORY / f"config/published/{data}.csv").open(encoding="utf-8") as file:
            found = [row for row in csv.DictReader(file) if row["split"] == split]
        return {row["miou"] for row in found if f"{row['method']} ".startswith(f"{method} ")}

    places = [("voc12", "train"), ("voc12", "val"), ("voc12", "test"), ("coco14", "val")]
    for label, *figures, _ in cells("docs/systems.md", "## Published figures"):
        for (data, split), figure in zip(places, figures, strict=True):
            assert not figure or figure in quoted(label.split(",")[0], data, split), label
    for system, _, _, figures in cells("README.md", "## Systems"):
        method = system.split(" (")[0]
        known = quoted(method, "voc12", "val") | quoted(method, "coco14", "val")
        assert set(re.findall(r"\d+\.\d+", figures)) <= known, system


def test_the_map_of_the_code_names_files_that_are_there():
    package = synthetic.REPOSITORY / "src/clip_wsss"
    names = set(re.findall(r"`([\w/]+\.(?:py|smk))`", page("CONTRIBUTING.md")))
    assert len(names) > 60
    for name in names:
        places = [synthetic.REPOSITORY / name, synthetic.REPOSITORY / "workflow/rules" / name]
        assert any(one.is_file() for one in (*places, *package.rglob(name))), name
