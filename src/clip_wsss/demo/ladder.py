"""Measure a demo CLIP on the rungs of CLIP-ES, by the suite's own workflow.

    python -m clip_wsss.demo.ladder --weights DIR/demo-clip.safetensors --out FOLDER
        [--seed 7] [--scenes 400] [--world 2] [--layers 4] [--segment] [--cores 2]

FOLDER gets a config, a table of runs, data and results; a second call goes on there. Printed: mIoU
with 95 % intervals, and of every rung what it adds to the one before, images paired. The shipped
CLIP is measured with `--layers 3`. Seed 7 is for choices (`scenes.py`).
"""

import argparse
import csv
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from clip_wsss.core.resources import find

RUNGS = (  # name, base, texts, cam, affinity, masks, segmentation
    ("plain", "-", "photo", "plain", "-", "-", "-"),
    ("softmax", "plain", "photo", "softmax", "-", "-", "-"),
    ("prompt", "softmax", "sharpest", "softmax", "-", "-", "-"),
    ("synonyms", "prompt", "synonyms", "softmax", "-", "-", "-"),
    ("synonyms-more", "prompt", "synonyms,names=synonyms", "softmax", "-", "-", "-"),
    ("caa", "synonyms", "synonyms", "softmax", "caa", "-", "-"),
    ("crf", "caa", "synonyms", "softmax", "caa", "crf", "-"),
)
TRAININGS = (
    ("seg-all", "crf", "synonyms", "softmax", "caa", "crf", "all-pixels"),
    ("seg-cgl", "seg-all", "synonyms", "softmax", "caa", "crf", "cgl"),
    ("full", "-", "-", "-", "-", "ground-truth", "all-pixels"),
)
COLUMNS = ("name", "base", "texts", "cam", "affinity", "masks", "segmentation")
TEMPLATES = 21  # of config/templates/imagenet20.txt


def settings(weights: Path, seed: int, scenes: int, world: int, layers: int) -> dict:
    """Return the config of a measurement: the demo's with another CLIP and other scenes.

    Args:
        weights: beside its model.json.
        seed: of the scenes.
        scenes: images of `train`, which rank the templates and are scored.
        world: of the scenes.
        layers: last layers whose attention CAA averages.
    """
    model = {"architecture": str(weights.parent / "model.json"), "weights": str(weights)}
    return {
        "inherits": ["config/config.yaml"],
        "dataset": {
            "name": "ladder",
            "root": "data",
            "vocabulary": "config/vocabularies/demo.yaml",
        },
        "demo": {"seed": seed, "train": scenes, "val": max(2, scenes // 2), "world": world},
        "runs": {"tables": ["ladder.tsv"]},
        "models": {"demo": model, "exact": model},
        "affinity": {"caa": {"layers": layers}},
        "evaluation": {"published": None},
    }


def table_of_rungs(segment: bool) -> str:
    """Return the table of runs: the rungs, then every template beside the sharpest one."""
    rows = [COLUMNS, *RUNGS, *(TRAININGS if segment else ())]
    for number in range(1, TEMPLATES + 1):
        texts = f"sharpest,template={number}"
        rows.append((f"template-{number}", "prompt", texts, "softmax", "-", "-", "-"))
    return "".join("\t".join(row) + "\n" for row in rows)


def summary_of_rungs(lines: list[dict[str, str]]) -> str:
    """Return what is printed of the measured table.

    Args:
        lines: of the CSV, by column.
    """
    found = {line["run"]: line for line in lines}
    text = []
    templates = [name for name in found if name.startswith("template-")]
    for name, line in found.items():
        if name not in templates:
            text.append(f"{name:14}{_figure(line, 'miou')}  {_against(line)}".rstrip())
    values = {name: float(found[name]["miou"]) for name in templates}
    median = statistics.median_low(values.values())
    middle = next(name for name in templates if values[name] == median)
    ranked = sorted(templates, key=lambda name: -values[name])
    text.append(f"median template ({middle}) {_figure(found[middle], 'miou')}")
    text.append(f"  {_against(found[middle])}")
    text.append("templates: " + ", ".join(f"{name[9:]} {values[name]:.1f}" for name in ranked))
    return "\n".join(text)


def _figure(line: Mapping[str, str], name: str) -> str:
    value, low, high = (float(line[name + end]) for end in ("", "_low", "_high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _against(line: Mapping[str, str]) -> str:
    if not line["difference"]:
        return line["difference_note"]
    return f"{_figure(line, 'difference')} of {line['difference_of']} against {line['base']}"


def measure_rungs(
    out: Path, config: Mapping, segment: bool = False, cores: int = 2
) -> list[dict[str, str]]:
    """Run the workflow in a folder and return the lines of its table.

    Raises:
        subprocess.CalledProcessError: the workflow failed; it has said why.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "ladder.tsv").write_text(table_of_rungs(segment), encoding="utf-8")
    (out / "ladder.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    made = "results/ladder/tables/ladder.csv"
    command = [sys.executable, "-P", "-m", "clip_wsss", "run", "--configfile", "ladder.yaml"]
    subprocess.run([*command, "--cores", str(cores), made], cwd=out, check=True)
    with (out / made).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Command line of `measure`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = "src/clip_wsss/demo/clip/demo-clip.safetensors"
    parser.add_argument("--weights", default=shipped, help="model.json lies beside them")
    parser.add_argument("--out", type=Path, required=True, help="folder of data and results")
    parser.add_argument("--seed", type=int, default=7, help="of the scenes")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--world", type=int, default=2, choices=(1, 2))
    parser.add_argument("--layers", type=int, default=4, help="that CAA averages")
    parser.add_argument("--segment", action="store_true", help="trainings too")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    weights = find(args.weights).resolve()
    config = settings(weights, args.seed, args.scenes, args.world, args.layers)
    print(summary_of_rungs(measure_rungs(args.out, config, args.segment, args.cores)))


if __name__ == "__main__":
    main()
