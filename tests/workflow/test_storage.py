"""Jobs without a shared file system: each in a folder of its own, files carried by Snakemake."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from conftest import Project, hashes

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("rsync") is None, reason="the storage plugin needs rsync"),
]

SUBMIT = """\
    #!/bin/bash
    # Runs a job in the background, in an empty folder of its own.
    node=$(mktemp -d "$NODES/XXXXXX")
    ( cd "$node"; setsid bash "$1" > joblog 2>&1; echo $? > rc ) > /dev/null 2>&1 &
    echo "$node"
"""
STATUS = """\
    #!/bin/bash
    [ -f "$1/rc" ] || { echo running; exit; }
    [ "$(cat "$1/rc")" = 0 ] && echo success || echo failed
"""


def _script(path, text):
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """The cut-down project as a Git repository, which is what Snakemake deploys to a job."""
    project = Project(tmp_path / "project")
    project.cut_down()
    project.write_config()
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=project.folder, check=True)
    for name in ("nodes", "store"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("NODES", str(tmp_path / "nodes"))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    options = ["--executor", "cluster-generic", "--jobs", "2", "--latency-wait", "5"]
    options += ["--cluster-generic-submit-cmd", _script(tmp_path / "submit.sh", SUBMIT)]
    options += ["--cluster-generic-status-cmd", _script(tmp_path / "status.sh", STATUS)]
    options += ["--seconds-between-status-checks", "1"]
    options += ["--job-deploy-sources", "--shared-fs-usage", "none"]
    options += ["--default-storage-provider", "fs"]
    options += ["--default-storage-prefix", str(tmp_path / "store")]
    options += ["--local-storage-prefix", ".snakemake/storage"]
    return project, options, tmp_path / "store"


def test_the_same_bytes_as_an_ordinary_run(carried, small):
    project, options, store = carried
    result = project.snakemake(*options, timeout=3600)
    assert result.code == 0, result.text
    for name in ("data/demo", "results/demo"):
        mine, theirs = hashes(store / name), hashes(small.folder / name)
        assert mine.keys() == theirs.keys()
        assert [file for file in mine if mine[file] != theirs[file]] == []
    assert not (project.folder / "results/demo/cam").exists(), "nothing was written here"
    assert project.snakemake(*options, "-n").nothing_to_do
