"""What pyproject.toml cannot say: the workflow and its configs go into the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROJECT = ("Snakefile", "workflow", "config", "profiles")  # clip_wsss.core.resources finds them


class BuildWithProject(build_py):
    """Copies the project beside the modules; an editable install finds it in the checkout."""

    def run(self):
        """Build as usual, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "clip_wsss/project")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in PROJECT:
            if Path(name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(name, target / name, ignore=ignored)
            else:
                shutil.copy(name, target)


setup(cmdclass={"build_py": BuildWithProject})
