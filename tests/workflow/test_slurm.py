"""The cut-down demo through SLURM: one node on this machine, a cancelled job and one out of time.

`make test-slurm` installs Debian's packages and runs this; it needs root.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import RUNS, Project, hashes

pytestmark = pytest.mark.workflow

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

# A mask refinement that at the first attempt takes longer than its job may.
SLOW = """\
import time
from pathlib import Path


def slow(context):
    mark = Path({mark!r})
    if not mark.exists():
        mark.write_text("")
        time.sleep(600)
    return context.scores
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def cluster(tmp_path):
    """A cluster of this machine. Its config lies where jobs, which lack SLURM_CONF, look for it."""
    link = Path("/etc/slurm/slurm.conf")
    if link.exists():
        pytest.skip(f"{link}: this machine has a cluster already")
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    text = CONFIG.format(folder=folder, host=host, ports=free_ports(2), cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)  # of a test that was killed
    link.symlink_to(folder / "slurm.conf")
    daemons = [subprocess.Popen([name, "-D"]) for name in ("slurmctld", "slurmd")]
    try:
        for _ in range(60):
            done = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False
            )
            if done.stdout.strip() in ("idle", "mixed"):
                break
            time.sleep(1)
        else:
            pytest.fail((folder / "slurmctld.log").read_text("utf-8"))
        yield folder
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(600)
        link.unlink()


def cancel_first(rule, ended, cancelled):
    """Cancel the first job of a rule as soon as it runs."""
    while not ended.is_set() and not cancelled:
        command = ["squeue", "-h", "-t", "RUNNING", "-o", "%i %k"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            number, _, comment = line.partition(" ")
            if rule in comment:
                subprocess.run(["scancel", number], check=True)
                cancelled.append(number)
                return
        time.sleep(1)


@pytest.mark.skipif(
    "CLIP_WSSS_SLURM" not in os.environ, reason="make test-slurm runs it (root, SLURM)"
)
def test_the_demo_through_slurm(cluster, small, tmp_path):
    project = Project(tmp_path / "project")
    project.cut_down()
    mark = tmp_path / "slow"
    (project.folder / "slowly.py").write_text(SLOW.format(mark=str(mark)), encoding="utf-8")
    project.config["masks"]["slow"] = {"refinement": "slowly:slow"}
    project.config["compute"]["needs"] = {"masks": {"memory": 1000, "minutes": 1}}
    project.write_runs(RUNS + "slow\tplain\tphoto\tsoftmax\tcaa\tslow\t-\t-\t0\t\n")
    profile = project.folder / "profiles/slurm/config.yaml"
    settings = yaml.safe_load(profile.read_text("utf-8"))
    settings["slurm-init-seconds-before-status-checks"] = 5
    profile.write_text(yaml.safe_dump(settings), encoding="utf-8")

    ended, cancelled = threading.Event(), []
    watch = threading.Thread(target=cancel_first, args=("maps", ended, cancelled))
    watch.start()
    try:
        result = project.snakemake("--workflow-profile", "profiles/slurm", "--show-failed-logs")
    finally:
        ended.set()
        watch.join()
    assert result.code == 0, result.text
    assert cancelled, "a job of the maps was cancelled"
    assert mark.exists(), "a job of masks ran out of time"
    # On a busy machine other jobs of masks run out of their minute too.
    assert "failed: maps: " in result.text
    assert "failed: masks: slow" in result.text

    # The same bytes as without a cluster, but for what names the further row.
    other, mine = hashes(small.folder / "results/demo"), hashes(project.folder / "results/demo")
    for name in other:
        if name.split("/")[0] in ("texts", "cam", "affinity", "segmentation", "inference"):
            assert mine[name] == other[name], name


def test_the_profile_has_what_the_default_one_has():
    folder = Path(__file__).parents[2] / "profiles"
    default, slurm = (
        yaml.safe_load((folder / name / "config.yaml").read_text("utf-8"))
        for name in ("default", "slurm")
    )
    del default["resources"]  # the limit of one GPU, which a cluster does without
    assert default.items() <= slurm.items()
    assert "resources" not in slurm
