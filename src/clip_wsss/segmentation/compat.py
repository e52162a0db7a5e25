"""Makes MMSegmentation work without mmcv's compiled operators, and on Python 3.14.

`import mmseg.models` fails with "No module named 'mmcv._ext'" beside mmcv-lite, although only
heads that nobody here uses need those operators. An empty module replaces them; where the
real one is installed, it is used.
"""

import importlib.machinery
import importlib.util
import pkgutil
import sys
import types

import mmcv

NAME = "mmcv._ext"


class _MissingOperators(types.ModuleType):
    """Any operator can be looked up; calling it is the error."""

    def __getattr__(self, name: str):
        if name.startswith("__"):  # what the import system and `inspect` ask for
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(
                f"mmcv's compiled operator `{name}` is not installed (mmcv-lite has none); install "
                "the full mmcv, or choose a segmentor that does not need it"
            )

        return missing


def _find_loader(name: str):
    """What Python 3.14 dropped from pkgutil, and MMEngine asks for `mmcv._ext`."""
    spec = importlib.util.find_spec(name)
    return None if spec is None else spec.loader


def provide_operators() -> bool:
    """Install a replacement of `mmcv._ext` if the real one is missing.

    Returns:
        Whether the real operators are there.
    """
    if not hasattr(pkgutil, "find_loader"):
        pkgutil.find_loader = _find_loader  # type: ignore[assignment]  # all that is asked of it
    if NAME in sys.modules:
        return not isinstance(sys.modules[NAME], _MissingOperators)
    if importlib.util.find_spec(NAME) is not None:
        return True
    module = _MissingOperators(NAME)
    module.__spec__ = importlib.machinery.ModuleSpec(NAME, loader=None)
    sys.modules[NAME] = mmcv._ext = module
    return False
