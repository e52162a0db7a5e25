# What all rules share: the plan, paths, and the functions that look up inputs and parameters.
#
# A rule of a stage has one parameter that Snakemake compares, `stamp`: stage, key, fingerprint of
# the code and what changes the last bits. Everything else a job needs is passed by `unseen`, since it
# is in the key already or decides no bytes.

import hashlib
import itertools
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from clip_wsss.core.errors import InputError, of_machine
from clip_wsss.core.files import write_json
from clip_wsss.core.methods import add_plugins
from clip_wsss.core.plain import read_yaml
from clip_wsss.runs.graph import CHECK
from clip_wsss.runs.plan import make_plan
from clip_wsss.runs.settings import NEEDS
from clip_wsss.runs.stages import MAP_STAGES

# Jobs import nothing of the working directory in the place of a library (`core.methods` does, of the
# files that a config names).
os.environ.update(PYTHONSAFEPATH="1")

SOURCE = ", ".join(Path(file).name for file in workflow.configfiles) or "config"

# Each of these would stop the first job, or mix up files, with a message that explains nothing.
if re.search(r"[^\w@%+=:,./-]", sys.executable):
    raise WorkflowError(
        f"{sys.executable}: Snakemake cannot run a Python whose path holds a space or another "
        "special character; make the environment elsewhere (make VENV=/some/folder)"
    )
if workflow.modifier.path_modifier.replace_prefix("results") != "results":
    raise WorkflowError(
        "module: prefix and replace_prefix cannot be used; dataset.name says where results lie"
    )
if not config:
    raise WorkflowError(
        "the config is empty; name one with --configfile, or in a module with `config:`"
    )
try:
    for file in workflow.configfiles:
        add_plugins(Path(file).parent)  # methods may lie beside it
        # Snakemake has read it too, but a key that is given twice goes unseen there.
        read_yaml(file)
    PLAN = make_plan(
        config,
        SOURCE,
        scripts=PROJECT / "workflow/scripts",
        # Where files lie as this process sees them: below the prefix of a default storage.
        store=Path(workflow.storage_settings.default_storage_prefix or ""),
    )
except InputError as error:
    raise WorkflowError(str(error))
except OSError as error:
    raise WorkflowError(str(of_machine(error, SOURCE) or error))

GRAPH = PLAN.graph
DATASET = PLAN.dataset_settings
SPLITS = DATASET.splits
COMPUTE = PLAN.config.compute
ROOT = Path(DATASET.root)
RESULTS = PLAN.root
CHECKED = RESULTS / CHECK
UNCHECKED = False  # whether the report is still to be made, below results that are there
STOPPED = False  # whether that is since a check was stopped, or found errors
LOGS = RESULTS / "logs"
BENCHMARKS = RESULTS / "benchmarks"
GPU = int(COMPUTE.device != "cpu")

for folder in (*reversed(RESULTS.parents), RESULTS):
    if (PLAN.store / folder).exists() and not (PLAN.store / folder).is_dir():
        raise WorkflowError(f"{folder}: is a file where results must lie; move or rename it")

if workflow.is_main_process and (PLAN.store / RESULTS).is_dir():
    # Results rest below an `ancient` input only if it is there. So an empty report stands for the
    # one that is missing, and the first job that makes anything forces the check.
    if not (PLAN.store / CHECKED).exists():
        write_json(PLAN.store / CHECKED, {})
    UNCHECKED = (PLAN.store / CHECKED).stat().st_size < 4
    STOPPED = UNCHECKED and (PLAN.store / LOGS / "data-check.log").exists()


wildcard_constraints:
    node="[^/]+",
    shard=r"\d{4}of\d{4}",
    seed=r"\d+",
