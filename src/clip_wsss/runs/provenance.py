"""What made a measurement: commit, settings, inputs, packages, device and time.

The file lies beside score.json and is the only file there that changes from one run to the next.
It names no user, host or folder outside the project.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import clip_wsss
from clip_wsss.core.devices import device_name
from clip_wsss.core.files import sha256, write_json
from clip_wsss.core.resources import checkout
from clip_wsss.runs.settings import Config

PACKAGES = (
    "clip-wsss",
    "mmengine",
    "mmsegmentation",
    "numpy",
    "open_clip_torch",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "pydensecrf2",
    "scipy",
    "snakemake",
    "torch",
    "torchvision",
)
LISTED = 32  # with more inputs their common hash is written


def write_provenance(
    path: Path,
    inputs: Sequence[Path],
    settings: dict,
    started: float | None = None,
    root: Path = Path(),
) -> None:
    """Write the provenance of one measurement.

    Args:
        path: the JSON to write.
        inputs: files that it was computed from, or folders (every file below them counts).
        settings: what the config said, model and data set included.
        started: when the job began, in seconds since the epoch.
        root: folder of the project; paths are written relative to it.

    Raises:
        FileNotFoundError: an input is missing.
    """
    now = datetime.now(UTC)
    values = portable(settings, root)
    record = {
        **commit(),
        "config": {"sha256": _hash(values), "values": values},
        "inputs": hash_inputs(inputs, root),
        "versions": versions(),
        "device": device_name("cpu"),  # scoring uses no GPU
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "finished": now.isoformat(timespec="seconds"),
        "seconds": None if started is None else round(now.timestamp() - started, 3),
    }
    write_json(path, record, sort_keys=False)


def summary(config: Config) -> dict[str, Any]:
    """Return what a report says of its own making: commit, config, versions and time."""
    return {
        **commit(),
        "config_sha256": _hash(portable(config.model_dump())),
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit(root: Path | None = None) -> dict[str, Any]:
    """Return {"commit": hash, "changed": whether tracked files differ from it}; None without git.

    Untracked files do not count as a change.

    Args:
        root: a folder of the repository; None: the suite's own, which a package has none of.
    """
    root = checkout() if root is None else root
    if root is None:
        return {"commit": None, "changed": None}
    head = _git(root, "rev-parse", "HEAD")
    state = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "changed": None if state is None else bool(state)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def hash_inputs(inputs: Sequence[Path], root: Path = Path()) -> dict[str, Any]:
    """Return the SHA-256 of every input by its path.

    Beyond `LISTED` files it is {"files": number, "sha256": of the lines "<hash>  <path>"}, what
    `sha256sum` prints, sorted by path.
    """
    files = []
    for path in map(Path, inputs):
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    hashes = dict(sorted((_portable_path(str(file), root), sha256(file)) for file in files))
    if len(hashes) <= LISTED:
        return hashes
    lines = "".join(f"{value}  {name}\n" for name, value in hashes.items())
    return {"files": len(hashes), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def portable(value: Any, root: Path = Path(), *, keep: bool = False) -> Any:
    """Return settings without absolute paths.

    Paths below the project become relative to it; of others only the name is kept, as
    `<outside>/name`.

    Args:
        value: settings.
        root: folder of the project.
        keep: leave paths outside of it as they are, for what is to be read again.
    """
    if isinstance(value, dict):
        return {key: portable(item, root, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, root, keep=keep) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    path = _portable_path(value, root)
    return value if keep and path.startswith("<outside>/") else path


def _portable_path(text: str, root: Path) -> str:
    climbs = text.startswith("~") or text.split("/")[0] == ".."
    if not (climbs or os.path.isabs(text)):
        return text
    path = Path(os.path.expanduser(text)).absolute()
    home = Path(root).absolute()
    return str(path.relative_to(home)) if path.is_relative_to(home) else f"<outside>/{path.name}"


def _hash(values: Any) -> str:
    """SHA-256 of the settings as JSON with sorted keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"clip-wsss": clip_wsss.__version__}
