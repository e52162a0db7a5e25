# What all rules share: the checked config, the runs, paths, and the functions that look up inputs.

from pathlib import Path

from snakemake.exceptions import WorkflowError

from clip_wsss import config as checks
from clip_wsss import runs as table
from clip_wsss.errors import InputError
from clip_wsss.shards import shard_names

SCHEMA = "workflow/schemas/config.schema.yaml"
SOURCE = ", ".join(Path(file).name for file in workflow.configfiles) or "config"

try:
    schema = checks.read_schema(SCHEMA)
    checks.check_config(config, schema, SOURCE)
    RUNS = table.read_runs(config, schema)
except InputError as error:
    raise WorkflowError(str(error))

DATASET = config["dataset"]
SPLITS = DATASET["splits"]
COMPUTE = config["compute"]
ROOT = Path(DATASET["root"])
RESULTS = Path("results") / DATASET["name"]
LOGS = Path("results") / DATASET["name"] / "logs"
COSTS = Path("results") / DATASET["name"] / "costs"
SHARDS = shard_names(COMPUTE["shards"])
GPU = int(COMPUTE["device"] != "cpu")


wildcard_constraints:
    model="[^/]+",
    texts="[^/]+",
    cam="[^/]+",
    masks="[^/]+",
    segmentation="[^/]+",
    shard=r"\d{4}of\d{4}",
    stage="initial|refined",
    power=r"[0-9.]+",
    seed=r"\d+",


def code(*modules):
    """Modules of the package that a rule depends on: a change in one runs the rule again."""
    return [f"src/clip_wsss/{module}.py" for module in modules]


def entry(group):
    """A rule parameter: the settings behind the cell in the wildcard called like the group."""

    def settings(wildcards):
        return table.resolve(config, group, wildcards[group])

    return settings


def model_of(wildcards):
    """The name of the CLIP that a cam cell works with."""
    return table.resolve(config, "cam", wildcards.cam)["model"]


def local_files(*values):
    """Those of some settings that are local files, as inputs (the others are names or tags)."""
    return [value for value in values if value is not None and Path(value).is_file()]


def files_of_model(wildcards):
    name = wildcards.get("model") or model_of(wildcards)
    return local_files(*config["models"][name].values())


def text_features(wildcards):
    return RESULTS / "prompts" / model_of(wildcards) / wildcards.texts / "text_features.npz"


def shards_of_cams(wildcards):
    return [RESULTS / "cams" / wildcards.texts / wildcards.cam / f"{s}.npz" for s in SHARDS]


def manifests(wildcards):
    folder = RESULTS / "masks" / wildcards.texts / wildcards.cam / wildcards.masks
    return [folder / f"{shard}.csv" for shard in SHARDS]


def split_list(split):
    """What a rule depends on when it reads a split: its list, or the CSV of a plain folder."""
    if SPLITS[split] is None:
        return []
    if DATASET["source"] == "images":
        return [DATASET["labels"]]
    return [ROOT / f"ImageSets/Segmentation/{SPLITS[split]}.txt"]


CAMS = sorted(
    {
        RESULTS / "cams" / run.texts / run.cam / f"{shard}.npz"
        for run in RUNS
        for shard in SHARDS
    }
)
MASKS = sorted(
    {
        RESULTS / "masks" / run.texts / run.cam / run.masks / f"{shard}.csv"
        for run in RUNS
        if table.exports_masks(config, run)
        for shard in SHARDS
    }
)
METRICS = sorted(
    {
        RESULTS / file
        for run in RUNS
        for files in table.metric_files(config, run).values()
        for file in files
    }
)
PREDICTIONS = sorted(
    {
        RESULTS
        / f"segmentation/{run.texts}/{run.cam}/{run.masks}/{run.segmentation}/seed{seed}"
        / "predictions.csv"
        for run in RUNS
        if run.segmentation is not None and SPLITS["val"] is not None
        for seed in run.seeds
    }
)
CHECKPOINTS = sorted(
    {
        RESULTS
        / f"segmentation/{run.texts}/{run.cam}/{run.masks}/{run.segmentation}/seed{seed}"
        / "checkpoint.pth"
        for run in RUNS
        if run.segmentation is not None
        for seed in run.seeds
    }
)
