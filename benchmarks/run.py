"""All benchmarks, one after the other, beside an earlier commit.

    python benchmarks/run.py [--old REVISION] [--out FOLDER] [--only NAME ...]

Every other file of this folder, but for `mutants.py` and `photographs.py`, is run as
`python benchmarks/NAME.py`, with `--old PATH` where it knows that option: PATH is a temporary git
worktree of the revision. `gpu.py` runs where there is a GPU. FOLDER gets bench.md: the machine, and
what each of them printed.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
NONE = ("run", "mutants", "photographs")  # no benchmarks
CAM = ["--twin", "--tables", "--threads", "1", *(["2"] if (os.cpu_count() or 1) > 1 else [])]
LIBRARIES = ("torch", "numpy", "open_clip_torch", "opencv-python-headless", "pydensecrf2")


def git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


@contextmanager
def checkout(revision):
    """A worktree of a revision, which is taken away at the end; None for None."""
    if revision is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old"
        git("worktree", "add", "--quiet", "--detach", str(path), revision)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def processor():
    """The name of the CPU, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(old):
    """Lines that say what was measured where."""
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    lines = [
        f"- {processor()}, {os.cpu_count()} cores, {platform.system()}",
        f"- Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        f"- commit {git('rev-parse', '--short', 'HEAD')}{changed}",
    ]
    if old is not None:
        lines.append(f"- before: commit {git('log', '-1', '--format=%h, %s', old)}")
    return lines


def run(command, environment):
    """What a command prints, shown while it runs, and its exit status."""
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            process.terminate()
            raise
    return "".join(lines), process.returncode


def has_gpu():
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def main():
    paths = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem not in NONE}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", metavar="REVISION", help="commit to compare with; none: no other")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench")
    parser.add_argument("--only", nargs="+", choices=paths, default=list(paths))
    args = parser.parse_args()
    if args.old is not None:
        try:
            git("rev-parse", "--verify", "--quiet", f"{args.old}^{{commit}}")
        except subprocess.CalledProcessError:
            parser.error(
                f"--old {args.old}: no such commit here; fetch the whole history or name another"
            )
    args.out.mkdir(parents=True, exist_ok=True)
    out, failed = args.out / "bench.md", []
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the worktree is taken away then too
    text = "\n".join(["# Benchmarks", "", *machine(args.old)]) + "\n"
    with checkout(args.old) as old:
        for name in args.only:
            path, options = paths[name], CAM if name == "cam" else []
            if name == "gpu":
                if not has_gpu():
                    text += "\n## gpu\n\nUnmeasured: no GPU here.\n"
                    continue
                options = ["--out", str(args.out / "gpu")]
            if old is not None and '"--old"' in path.read_text():
                options += ["--old", str(old)]
            print(f"\n{name}", flush=True)
            start = time.perf_counter()
            printed, status = run([sys.executable, str(path), *options], environment)
            failed += [name] * bool(status)
            took = f"{time.perf_counter() - start:.0f} s" + f", exit {status}" * bool(status)
            text += f"\n## {name}\n\n{took}\n\n```\n{printed.strip()}\n```\n"
            out.write_text(text)
    out.write_text(text)
    print(f"\n{out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
