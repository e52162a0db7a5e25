"""Make a segmentor's file of an MMSegmentation config that has to be executed to be read.

    python -m clip_wsss.segmentation.convert <config.py> <segmentor.yaml>

The config runs as a program, in this process: convert only what you trust.
"""

import sys
from pathlib import Path
from typing import Any

from mmengine import Config

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.plain import dump_yaml
from clip_wsss.core.segmentors import checked


def convert(config: str | Path, out: str | Path) -> None:
    """Execute a config of MMEngine and write what a training takes of it as YAML.

    Raises:
        InputError: the config cannot be executed, or used (`clip_wsss.core.segmentors`).
    """
    try:
        content = Config.fromfile(config).to_dict()
    except Exception as error:  # it is a program
        reason = one_line(error)
        raise InputError(f"{config}: cannot be executed ({reason}); correct it") from None
    text = dump_yaml(_lists(checked(content, config, True)), sort_keys=False)
    Path(out).write_text(text, encoding="utf-8")


def _lists(value: Any) -> Any:
    """Plain YAML knows no tuples."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        convert(*sys.argv[1:])
    except InputError as message:
        raise SystemExit(f"error: {message}") from None
