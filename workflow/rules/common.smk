# What all rules share: the plan, paths, and the functions that look up inputs and parameters.
#
# A rule has one parameter that Snakemake compares, `stamp`: stage, key, fingerprint of the code and
# what changes the last bits. Everything else a job needs is passed by `unseen`, since it is in the
# key already or decides no bytes.

import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from clip_wsss.errors import InputError
from clip_wsss.plan import make_plan

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
    stage="initial|refined",
    seed=r"\d+",


def unseen(value):
    """A parameter that Snakemake does not compare: it never records those that take `output`."""
    if callable(value):
        return lambda wildcards, output: value(wildcards)
    return lambda wildcards, output: value


def node_of(stage):
    """A function of the wildcards that gives the node in them."""
    return lambda wildcards: GRAPH.node(stage, wildcards.node)


def stamp_of(stage):
    """Parameter: the stamp of the node in the wildcards."""
    return lambda wildcards: PLAN.stamp(GRAPH.node(stage, wildcards.node))


def settings_of(stage):
    """Parameter: the settings of the node in the wildcards."""
    return unseen(lambda wildcards: GRAPH.node(stage, wildcards.node).settings)


def lineage_of(stage):
    """Parameter: the settings of the node in the wildcards and of all stages before it."""
    return unseen(lambda wildcards: GRAPH.node(stage, wildcards.node).lineage())


def before(stage):
    """A function of the wildcards that gives the shards that a node of a stage is made from."""

    def find(wildcards):
        node = GRAPH.node(stage, wildcards.node).parents[0]
        shards = [wildcards.shard] if "shard" in wildcards.keys() else GRAPH.shards
        return [PLAN.shard(node, shard) for shard in shards]

    return find


def itself(stage):
    """A function of the wildcards that gives all shards of a node."""
    return lambda wildcards: [
        PLAN.shard(GRAPH.node(stage, wildcards.node), shard) for shard in GRAPH.shards
    ]


def files(products):
    """Input: the files of some products."""
    return lambda wildcards: [product.files[0] for product in products(wildcards)]


def sidecars(products):
    """Input: their sidecars."""
    return lambda wildcards: [product.sidecar for product in products(wildcards)]


def stamps(products):
    """Parameter: what the plan says of them."""
    return unseen(lambda wildcards: [product.stamp for product in products(wildcards)])


def fresh(products):
    """Input: nothing. A job whose files other settings or other code have made is forced.

    Snakemake sees a changed stamp by its own records; the sidecars tell where it has none.
    """

    def look(wildcards):
        if workflow.is_main_process:
            for product in products(wildcards):
                if PLAN.stale(product):
                    path = workflow.modifier.path_modifier.apply_default_storage(
                        str(product.sidecar)
                    )
                    workflow.dag.forcefiles.add(path)
        return []

    return look


def shard_of(stage):
    """A function of the wildcards that gives the product in them, in a list."""
    return lambda wildcards: [PLAN.shard(GRAPH.node(stage, wildcards.node), wildcards.shard)]


def images_of(split):
    """Inputs of whoever reads a split."""
    return PLAN.images_of(split)
