"""What is installed, found and free on this machine: one page to paste into an issue.

It names no user, host, or folder but the caches of weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from clip_wsss.core.devices import device_name
from clip_wsss.core.resources import find, project
from clip_wsss.runs.config import read_config
from clip_wsss.runs.provenance import commit, versions

GIGABYTE = 1e9


def facts() -> Iterator[tuple[str, str]]:
    """What there is to say, as pairs of words."""
    found, made = versions(), commit()
    suite = f"{found.pop('clip-wsss')}, commit {(made['commit'] or 'none')[:10]}"
    yield "clip-wsss", suite + (" with changes" if made["changed"] else "")
    yield "python", f"{found.pop('python')} on {platform.system()} {platform.machine()}"
    yield "processor", f"{device_name('cpu')}, {_cpus()} CPUs"
    yield "memory", _memory()
    yield "disk", f"{shutil.disk_usage('.').free / GIGABYTE:.0f} GB free here"
    yield "gpu", _gpu()
    compiled = importlib.util.find_spec("clip_wsss.masks._fast_crf") is not None
    yield "fast CRF", "compiled" if compiled else "missing: pydensecrf does its work, slower"
    yield "weights", _openai()
    demo = find("src/clip_wsss/demo/clip/demo-clip.safetensors").is_file()
    yield "demo's CLIP", "there" if demo else "missing: install the package again"
    yield from found.items()


def _cpus() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
    total, free = (kilobytes[key] * 1024 / GIGABYTE for key in ("MemTotal", "MemAvailable"))
    return f"{total:.0f} GB, {free:.0f} GB of it available"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that PyTorch can use"
    return (
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    )


def _openai() -> str:
    """Whether the weights of the shipped presets need a download."""
    from clip_wsss.models.cached import downloaded

    model = read_config(str(project() / "config/voc12.yaml")).models["vit-b-16"]
    where = downloaded(str(model.architecture), model.weights)
    name = f"{model.architecture}, {model.weights}"
    return f"{name}: {f'in {where}' if where else 'not here; downloaded when first used'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    argparse.ArgumentParser(prog="clip-wsss doctor", description=__doc__).parse_args(arguments)
    page = list(facts())
    width = max(len(name) for name, _ in page)
    for name, words in page:
        print(f"{name:{width}}  {words}")
    return 0
