# What all rules share: the plan, paths, and the functions that look up inputs and parameters.
#
# A rule has one parameter that Snakemake compares, `stamp`: stage, key, fingerprint of the code and
# what changes the last bits. Everything else a job needs is passed by `unseen`, since it is in the
# key already or decides no bytes.

import hashlib
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from clip_wsss.core.errors import InputError
from clip_wsss.runs.plan import make_plan
from clip_wsss.runs.stages import MAP_STAGES

SOURCE = ", ".join(Path(file).name for file in workflow.configfiles) or "config"

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
    seed=r"\d+",
