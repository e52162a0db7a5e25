"""What a job's imports cost: every script of the demo's rules, and the command.

    python benchmarks/startup.py [--old PATH] [--repeats 2] [--scripts maps masks ...]

A fresh interpreter runs the import statements of a script, those inside its `with` block too, and
nothing else. CPU seconds, the least of the repeats; `--old` is another checkout, measured in turn,
with the same interpreter and packages. What a function imports when it is called is not in it.
"""

import argparse
import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {  # and what they were called before
    "texts": "texts",
    "maps": "cams",
    "masks": "masks",
    "segmentation": "train",
    "inference": "predict",
    "score": "evaluate_maps",
    "tables": "tables",
    "report": "report",
    "demo_data": "demo_data",
}


def imports(script):
    """The import statements of a script, as code."""
    nodes = ast.walk(ast.parse(script.read_text()))
    return "\n".join(ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom))


def code_of(name, tree):
    """What a script of a checkout imports, or the command; None where the checkout lacks it."""
    if name == "the command":
        return "import clip_wsss.cli" if (tree / "src/clip_wsss/cli.py").is_file() else None
    paths = [tree / f"workflow/scripts/{own}.py" for own in (name, SCRIPTS[name])]
    return next((imports(path) for path in paths if path.is_file()), None)


def cpu_seconds(tree, code):
    """CPU seconds of a fresh interpreter that runs `code` with the package of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tree, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, help="checkout to compare with")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    args = parser.parse_args()
    trees = [ROOT] if args.old is None else [ROOT, args.old.resolve()]
    print("imports of      CPU seconds" + "  before  ratio" * (args.old is not None))
    total = [0.0] * len(trees)
    for name in [*args.scripts, "the command"]:
        codes = [code_of(name, tree) for tree in trees]
        spent = [float("inf")] * len(trees)
        for _ in range(args.repeats):
            for place, (tree, code) in enumerate(zip(trees, codes, strict=True)):
                if code is not None:
                    spent[place] = min(spent[place], cpu_seconds(tree, code))
        row = f"{name:14}  {spent[0]:11.2f}"
        if len(trees) == 2:
            row += (
                f"  {spent[1]:6.2f}  {spent[1] / spent[0]:5.2f}" if codes[1] else "       -      -"
            )
        if None not in codes:
            total = [sum(pair) for pair in zip(total, spent, strict=True)]
        print(row, flush=True)
    row = f"{'all':14}  {total[0]:11.2f}"
    print(row + (f"  {total[1]:6.2f}  {total[1] / total[0]:5.2f}" if len(trees) == 2 else ""))


if __name__ == "__main__":
    main()
