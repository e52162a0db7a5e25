"""docs/extending.md typed letter by letter: own methods in a package outside of the repository."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT

pytestmark = [pytest.mark.workflow, pytest.mark.e2e]

PAGE = (ROOT / "docs/extending.md").read_text("utf-8")
ITERATIONS = 2
CONFIG = "../my-work/mine.yaml"
KEPT = ("plain", "softmax", "full")  # rows of the demo's ladder
LAST = {"tables": 1, "report": 1}


def blocks():
    """(name of the file, language, text) of every block of the page that is typed somewhere."""
    for block in re.finditer(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        name = re.findall(r"`my-work/([\w./]+)`", PAGE[: block.start()])[-1]
        yield name, block[1], block[2]


def merged(under: dict, over: dict) -> dict:
    """One more entry of a group; nothing is said twice."""
    for key, value in over.items():
        if isinstance(value, dict) and key in under:
            merged(under[key], value)
        else:
            assert key not in under, key
            under[key] = value
    return under


def type_page(folder: Path) -> list[str]:
    """Write the files of the page; return the names of its rows."""
    config: dict = {}
    (folder / "ideas").mkdir(parents=True)
    (folder / "ideas/__init__.py").touch()
    for name, language, text in blocks():
        suffix = {"python": ".py", "yaml": ".yaml", "tsv": ".tsv"}[language]
        assert name.endswith(suffix), f"{name}: {text}"
        if language == "yaml":
            merged(config, yaml.safe_load(text))
        else:
            with (folder / name).open("x" if language == "python" else "a", encoding="utf-8") as f:
                f.write(text)
    for entry in config["segmentation"].values():
        entry["iterations"] = ITERATIONS  # all that is not as the page says
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    lines = (folder / "ideas.tsv").read_text("utf-8").splitlines()
    return [line.partition("\t")[0] for line in lines[1:]]


TOGETHER = {"maps", "inference", "score", "score_predictions"}


def said_jobs() -> Counter:
    """The jobs that the page says its rows need; of some kinds one job serves all rows."""
    texts = re.findall(r"^Jobs: (.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    found = [job for text in texts for job in re.findall(r"`(\w+)`", text.partition(". ")[0])]
    return Counter([job for job in found if job not in TOGETHER] + [*TOGETHER & {*found}])


@pytest.fixture
def demo(project):
    """The shipped demo and its ladder, cut down in place, so that the page's config inherits it."""
    project.cut_down()
    for entry in project.config["segmentation"].values():
        entry["iterations"] = ITERATIONS
    ladder = project.folder / "config/runs/ladder.tsv"
    head, *rows = ladder.read_text("utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.split("\t")[0] in KEPT]
    ladder.write_text("".join([head, *kept]), encoding="utf-8")
    project.config["runs"]["tables"] = ["config/runs/ladder.tsv"]
    text = yaml.safe_dump(project.config)
    (project.folder / "config/config.yaml").write_text(text, encoding="utf-8")
    return project


def edit(path: Path, old: str, new: str):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def errors(result) -> set[str]:
    assert result.code != 0, result.text
    lines = [line for line in result.text.splitlines() if "ideas." in line and "must" in line]
    return {line for line in lines if " ERROR " not in line}  # the job's log says it once more


def test_the_page_is_accepted(demo):
    """With one more row, whose affinity uses the attention of a ViT of timm."""
    ours = demo.folder.parent / "my-work"
    rows = type_page(ours)
    assert rows == [
        "blurred", "spread", "colour", "borrowed", "similarity", "margin", "focal", "linear",
        "nearest",
    ]  # fmt: skip
    config = yaml.safe_load((ours / "mine.yaml").read_text("utf-8"))
    dino = {"library": "timm", "architecture": "vit_tiny_patch16_224", "weights": "pretrained"}
    config["models"]["dino"] = dino
    (ours / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (ours / "ideas.tsv").open("a", encoding="utf-8") as table:
        table.write("dino\tsoftmax\tphoto\tsoftmax\tcaa,tower=dino\t-\t-\t-\n")
    result = demo.snakemake("-n", "--verbose", config=CONFIG)
    assert result.code == 0, result.text
    assert result.jobs["segmentation"] == 4
    assert "affinity/caa+layers=3+tower=vit_tiny_patch16_224-" in result.text


@pytest.mark.long
def test_the_page_typed_letter_by_letter(demo):
    result = demo.snakemake(config="config/config.yaml")
    assert result.code == 0, result.text
    results = demo.folder / "results/demo"
    stages = ("cam", "affinity", "masks", "segmentation", "inference", "score")
    made = {
        path: path.read_bytes()
        for stage in stages
        for path in (results / stage).rglob("*")
        if path.is_file() and path.name != "settings.yaml"
    }
    ours = demo.folder.parent / "my-work"
    rows = type_page(ours)

    # The jobs that the page says, and none of another row's.
    result = demo.snakemake(config=CONFIG)
    assert result.code == 0, result.text
    assert result.executed == {**said_jobs(), **LAST}, result.text
    assert [path for path, data in made.items() if path.read_bytes() != data] == []
    table = pd.read_csv(results / "tables/ideas.csv").set_index("run")
    assert list(table.index[: len(rows)]) == rows
    assert table.loc[rows, "miou"].notna().all()
    trained = ["focal", "linear", "nearest"]
    assert table.loc[trained, "segmentation"].notna().all()
    assert demo.snakemake("-n", config=CONFIG).nothing_to_do

    # An edit of a function runs the entry that names it; its mistake is one line of the job.
    edit(ours / "ideas/blur.py", "return np.stack(", "return np.array(")
    edit(ours / "ideas/blur.py", "for one in scores])", "for one in scores[1:]])")
    result = demo.snakemake("-n", config=CONFIG)
    assert result.jobs == {"masks": 1, "score": 1, **LAST}, result.text
    result = demo.snakemake(config=CONFIG)
    (line,) = errors(result)
    assert "refinement ideas.blur:blur: must return (" in line
    assert result.executed == {}

    # A mistake that can be seen before is one line before the first job.
    edit(ours / "ideas/colour.py", "def colour(context, settings:", "def colour(settings:")
    (line,) = errors(demo.snakemake("-n", config=CONFIG))
    assert "ideas.colour:colour: affinity: must take (context) or (context, settings)" in line
