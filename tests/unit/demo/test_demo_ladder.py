"""The measurement of a demo CLIP: its config, its table, and what it prints."""

from pathlib import Path

import yaml

from clip_wsss.core.resources import find
from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo.captions import TokenTable, read_lexicon
from clip_wsss.demo.ladder import COLUMNS, TEMPLATES, settings, summary_of_rungs, table_of_rungs
from clip_wsss.runs.config import read_config
from clip_wsss.runs.table import read_runs, resolve

WEIGHTS = find("src/clip_wsss/demo/clip/demo-clip.safetensors")
LIST = Path("config/templates/imagenet20.txt")


def test_its_config_and_table_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = settings(WEIGHTS, 7, 40, 2, 3)
    Path("ladder.yaml").write_text(yaml.safe_dump(content))
    Path("ladder.tsv").write_text(table_of_rungs(segment=True))
    config = read_config(Path("ladder.yaml"))
    assert (config.demo.seed, config.demo.train, config.demo.world) == (7, 40, 2)
    assert resolve(config, "affinity", "caa").layers == 3
    runs = {run.name: run for run in read_runs(config)}
    assert list(runs)[:4] == ["plain", "softmax", "prompt", "synonyms"]
    assert {"seg-all", "seg-cgl", "full"} <= set(runs)
    assert sum(run.base == "prompt" for run in runs.values()) == 2 + TEMPLATES
    lines = find(LIST).read_text().splitlines()
    assert sum(bool(line.strip()) and line[0] != "#" for line in lines) == TEMPLATES
    assert "seg-all" not in table_of_rungs(segment=False)
    assert {line.count("\t") for line in table_of_rungs(True).splitlines()} == {len(COLUMNS) - 1}


def test_the_demos_vocabulary_is_vocs_with_a_list_of_synonyms():
    demo, voc = (read_vocabulary(f"config/vocabularies/{name}.yaml") for name in ("demo", "voc12"))
    assert demo.classes == voc.classes
    assert demo.backgrounds == voc.backgrounds
    names = dict(demo.names)
    more = names.pop("synonyms")
    assert names == dict(voc.names)
    renamed = {name: text for name, text in names["clip-es"].items() if text != name}
    assert renamed.items() <= more.items()
    rows = TokenTable(read_lexicon(LIST, voc, world=2))
    assert (rows.encode(list(more.values())) >= 0).all()


def line(run, miou, difference="", base=""):
    figures = {"miou": miou, "miou_low": miou - 1, "miou_high": miou + 1}
    if difference:
        figures |= {
            "difference": difference,
            "difference_low": difference - 0.5,
            "difference_high": difference + 0.5,
        }
    words = {"run": run, "base": base, "difference_of": "cam", "difference_note": ""}
    return words | {"difference": ""} | {name: str(value) for name, value in figures.items()}


def test_the_median_template_is_shown_beside_the_sharpest():
    lines = [line("plain", 40.0), line("softmax", 43.0, 3.0, "plain")]
    lines += [line(f"template-{k}", 30.0 + k, k - 2.25, "prompt") for k in (3, 1, 2)]
    text = summary_of_rungs(lines).splitlines()
    assert text[0] == "plain         40.0 [39.0, 41.0]"
    assert text[1] == "softmax       43.0 [42.0, 44.0]  3.0 [2.5, 3.5] of cam against plain"
    assert text[2] == "median template (template-2) 32.0 [31.0, 33.0]"
    assert text[3] == "  -0.2 [-0.8, 0.2] of cam against prompt"
    assert text[4] == "templates: 3 33.0, 2 32.0, 1 31.0"
