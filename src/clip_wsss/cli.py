"""The command `clip-wsss`: makes masks, scores them, runs the workflow, finds what it made."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from clip_wsss import __version__
from clip_wsss.core.arguments import output
from clip_wsss.core.confidence import MU, check_mu
from clip_wsss.core.errors import (
    INTERRUPTED,
    UNREAD,
    InputError,
    failed,
    leave_out_warnings,
    stopped,
)
from clip_wsss.core.files import check_own, make_output, read_text, write_text
from clip_wsss.core.resources import find, is_file, project
from clip_wsss.core.spelling import unknown
from clip_wsss.data.check import check as check_data
from clip_wsss.data.check import shortened, trained_sizes
from clip_wsss.data.datasets import ALL
from clip_wsss.runs.builds import check_builds
from clip_wsss.runs.config import GROUPS, read_yaml
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.nodes import Node
from clip_wsss.runs.plan import Plan, make_plan
from clip_wsss.runs.table import Run

MODULES = {  # commands that have a module of their own, and what they do
    "masks": ("pictures", "pseudo masks of pictures with labels, as PNGs"),
    "score": ("score.folders", "mIoU of a folder of label PNGs"),
    "doctor": ("doctor", "what is installed and found here, to paste into an issue"),
    "compare": ("compare", "compare two results folders or revisions"),
    "parity": ("parity", "the numbers of a preset, image by image"),
}
STAGES = ("features", *GROUPS, "score")  # folders of results that `clean` looks into
EXPORT = "export.json"  # whose run the files of an exported folder are


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    leave_out_warnings()
    try:
        try:
            return _command(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            print(end="", flush=True)  # else it is written after this function
    except KeyboardInterrupt:
        print("stopped; the same command goes on or starts again", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # such as `| head -1`
        code = UNREAD
    except OSError as error:  # a full disk; commands catch those of their files
        code = stopped(error, "stdout")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # gets what is left to say
    return code


def _command(arguments: list[str]) -> int:
    if arguments[:1] and arguments[0] in MODULES:
        module, _ = MODULES[arguments[0]]
        return import_module(f"clip_wsss.{module}").main(arguments[1:])
    if arguments[:1] == ["run"]:
        return _run_workflow(arguments[1:])
    options = _parser().parse_args(arguments or ["--help"])
    try:
        return options.command(_plan(options.configfile), options)
    except InputError as error:
        return failed(error)
    except OSError as error:
        return stopped(error, getattr(options, "out", None) or Path())


def _run_workflow(arguments: Sequence[str]) -> int:
    """Become Snakemake with the suite's Snakefile, beside which it finds the suite's profile."""
    parser = argparse.ArgumentParser(
        prog="clip-wsss run",
        usage="%(prog)s [--configfile FILE] [argument of snakemake ...]",
        description="run the workflow in the working directory; without --configfile, the demo",
        allow_abbrev=False,  # --config is Snakemake's
    )
    parser.add_argument("--configfile", help="the user's, or one of the suite's: config/voc12.yaml")
    options, others = parser.parse_known_args(arguments)
    # -P: without it a yaml.py in the working directory would be run in the place of the library.
    command = [sys.executable, "-P", "-m", "snakemake"]
    if options.configfile is not None:
        if not is_file(options.configfile):
            return failed(InputError(f"{options.configfile}: there is no such file"))
        try:  # before Snakemake does, which takes some files for templates with code
            read_yaml(options.configfile)
        except InputError as error:
            return failed(error)
        command += ["--configfile", str(find(options.configfile))]
    command += ["--snakefile", str(project() / "Snakefile"), *others]
    # Nothing of this process stays, so that Ctrl-C and the exit status are Snakemake's own.
    return os.execv(sys.executable, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clip-wsss", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command, words: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=words, description=words)
        one.add_argument("--configfile", default="config/config.yaml", help="(%(default)s)")
        one.set_defaults(command=command)
        return one

    add(
        "check", _check, "look at all data, towers and trainings of the runs, and say what is wrong"
    )
    path = add("path", _path, "print the folder of a stage of a run")
    path.add_argument("run", help="its name in the runs table")
    path.add_argument("stage", choices=GROUPS)
    export = add("export", _export, "write masks, maps and predictions of a run as plain folders")
    export.add_argument("run", help="its name in the runs table")
    export.add_argument("--out", type=output, help="the folder (export/<run>)")
    export.add_argument("--overwrite", action="store_true", help="replace what is there")
    export.add_argument("--mu", type=float, default=MU, help="255 below it (%(default)s)")
    clean = add("clean", _clean, "list what no run of the config uses, or delete it")
    clean.add_argument("--yes", action="store_true", help="delete it")
    commands.add_parser("run", help="run the workflow: snakemake's arguments", add_help=False)
    for name, (_, words) in MODULES.items():
        commands.add_parser(name, help=words, add_help=False)
    return parser


def _plan(path: str) -> Plan:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of settings")
    return make_plan(content, path, scripts=project() / "workflow/scripts")


def _run(graph: Graph, name: str) -> Run:
    found = {run.name: run for run in graph.runs}
    if name not in found:
        raise InputError(unknown("run", name, found))
    return found[name]


def _node(graph: Graph, run: Run, stage: str) -> Node:
    path = graph.paths[run.name]
    if stage not in path:
        raise InputError(f"run `{run.name}` has no {stage}; it has {', '.join(path)}")
    return path[stage]


def _check(plan: Plan, options: argparse.Namespace) -> int:
    report = check_data(plan.unlabelled, plan.uses, plan.config.compute.workers)
    classes = 1 + len(plan.unlabelled.vocabulary.classes)
    sizes = trained_sizes(plan.unlabelled, report)
    built = check_builds(plan.models, plan.attention, plan.entries, classes, plan.prompts, sizes)
    report["errors"] = [*built, *report["errors"]]
    for line in shortened(report["warnings"]):
        print(f"warning: {line}")
    for line in shortened(report["errors"]):
        print(f"error: {line}", file=sys.stderr)
    counts = [
        f"{one['images']}{'' if split == ALL else f' {split}'}"
        for split, one in report["splits"].items()
    ]
    images = f"{' and '.join(counts) or 'no'} images"
    print(f"{plan.dataset.name}: {images}, {len(report['errors'])} errors")
    return 1 if report["errors"] else 0


def _path(plan: Plan, options: argparse.Namespace) -> int:
    run = _run(plan.graph, options.run)
    print(plan.root / _node(plan.graph, run, options.stage).folder)
    return 0


def _export(plan: Plan, options: argparse.Namespace) -> int:
    from clip_wsss.export import export_maps, export_masks

    graph, run = plan.graph, _run(plan.graph, options.run)
    out, path = options.out or Path("export") / run.name, graph.paths[run.name]
    check_mu(options.mu)
    made: dict[str, Callable[..., None]] = {}  # folder -> what fills it
    for stage, name in (("cam", "cams"), ("affinity", "refined")):
        if stage in path:
            made[name] = partial(export_maps, plan.dataset, _checked(plan, path[stage]))
    if "masks" in path:
        made["masks"] = partial(export_masks, _checked(plan, path["masks"]), mu=options.mu)
    if "inference" in path:
        splits = {}
        if plan.config.dataset.splits.val is not None:
            splits["val"] = "predictions"
        if graph.labels_whole_images(path["inference"]):
            splits["labels"] = "final-labels"
        for split, name in splits.items():
            for seed in run.seeds:
                product = plan.predictions(path["inference"], seed, split)
                plan.check(product)
                archives = product.files[:1] if split == "val" else product.files
                made[f"{name}/seed{seed}"] = partial(export_masks, archives)
    make_output(out)
    mark = json.dumps({"export": run.name, "results": str(plan.root)}, ensure_ascii=False)
    folders = [out / name for name in made]
    free = options.overwrite or not check_own(out, EXPORT, '{"export": ', folders)
    if not free and read_text(out / EXPORT, "missing") != mark:
        raise InputError(
            f"{out}: holds the export of another run ({EXPORT}); give another --out, or replace it "
            "with --overwrite"
        )
    for folder in folders:
        make_output(folder)
    write_text(out / EXPORT, mark)  # first: it says whose the others are
    for name, write in made.items():
        write(out=out / name)
    print(f"{out}: {', '.join(made)}")
    return 0


def _checked(plan: Plan, node: Node) -> list[Path]:
    """The shards of a node, made as the plan says and whole."""
    products = [plan.shard(node, shard) for shard in plan.graph.shards]
    for product in products:
        plan.check(product)
    return [product.files[0] for product in products]


def _clean(plan: Plan, options: argparse.Namespace) -> int:
    found = sorted(unused(plan))
    for path in found:
        print(f"{_megabytes(path):8.1f} MB  {path}")
    if not found:
        print(f"{plan.root}: nothing is unused")
    elif options.yes:
        for path in found:
            # Of a link the link goes: what it leads to is not of these results.
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        print(f"deleted {len(found)}")
    else:
        print(f"{len(found)} unused by the runs of {options.configfile}; --yes deletes them")
    return 0


def unused(plan: Plan) -> Iterator[Path]:
    """Folders of stages that no run uses, and shards of another number of shards."""
    used = {plan.root / folder for folder in plan.graph.folders()}
    above = {parent for folder in used for parent in folder.parents}
    shards = set(plan.graph.shards)

    def look(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path in used:
                yield from (one for one in path.iterdir() if _other_shard(one, shards))
                if path in above:  # a training's seeds lie within
                    yield from (one for one in path.glob("seed*") if one not in used)
            elif path in above:
                yield from look(path)
            elif path.is_dir():
                yield path

    if plan.root.is_dir():
        for stage in sorted(plan.root.iterdir()):
            if stage.is_dir() and stage.name in STAGES:
                yield from look(stage) if stage in above else [stage]


def _other_shard(path: Path, shards: set[str]) -> bool:
    numbers = path.stem.split("of")
    return len(numbers) == 2 and all(n.isdigit() for n in numbers) and path.stem not in shards


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files) / 1e6


if __name__ == "__main__":
    sys.exit(main())
