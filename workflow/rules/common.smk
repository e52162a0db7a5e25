# What all rules share: the plan, paths, and the functions that look up inputs and parameters.
#
# A rule has one parameter that Snakemake compares, `stamp`: stage, key, fingerprint of the code and
# what changes the last bits. Everything else a job needs is passed by `unseen`, since it is in the
# key already or decides no bytes.

import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import add_plugins
from clip_wsss.runs.plan import make_plan

SOURCE = ", ".join(Path(file).name for file in workflow.configfiles) or "config"

for file in workflow.configfiles:  # methods may lie beside it
    add_plugins(Path(file).parent)

try:
    PLAN = make_plan(
        config,
        SOURCE,
        scripts=Path(workflow.basedir) / "workflow/scripts",
        # Where files lie as this process sees them: below the prefix of a default storage.
        store=Path(workflow.storage_settings.default_storage_prefix or ""),
    )
except InputError as error:
    raise WorkflowError(str(error))

GRAPH = PLAN.graph
DATASET = PLAN.config.dataset
SPLITS = DATASET.splits
COMPUTE = PLAN.config.compute
ROOT = Path(DATASET.root)
RESULTS = PLAN.root
LOGS = RESULTS / "logs"
BENCHMARKS = RESULTS / "benchmarks"
GPU = int(COMPUTE.device != "cpu")


wildcard_constraints:
    node="[^/]+",
    shard=r"\d{4}of\d{4}",
    stage="initial|refined",
    seed=r"\d+",
