# What all rules share: the checked config, the runs, paths, and the functions that look up inputs.

from pathlib import Path

from snakemake.exceptions import WorkflowError

from clip_wsss import config as checks
from clip_wsss import runs as table
from clip_wsss.datasets import open_dataset
from clip_wsss.errors import InputError
from clip_wsss.imports import files_of
from clip_wsss.shards import shard_names

SCHEMA = "workflow/schemas/config.schema.yaml"
SOURCE = ", ".join(Path(file).name for file in workflow.configfiles) or "config"

try:
    schema = checks.read_yaml(SCHEMA)
    checks.check_config(config, schema, SOURCE)
    RUNS = table.read_runs(config, schema)
    IMAGES = open_dataset(config["dataset"])
    IMAGES.check_lists()
except InputError as error:
    raise WorkflowError(str(error))

config.update(checks.canonical(config))
DATASET = config["dataset"]
SPLITS = DATASET["splits"]
# What of it decides the bytes of CAMs, masks and predictions: a rule names its own split, and the
# ground truth only scores. So a test split that is named later, say, trains nothing again.
IMAGE_SETTINGS = {key: DATASET[key] for key in DATASET if key not in ("splits", "masks")}
COMPUTE = config["compute"]
# What of it decides the bytes of a result: a change of the rest (workers, say) runs nothing again.
NUMERICS = {key: COMPUTE[key] for key in ("device", "threads", "batch")}
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
    power=r"[0-9.e+-]+",
    seed=r"\d+",


CAMS = sorted(
    {RESULTS / "cams" / run.texts / run.cam / f"{shard}.npz" for run in RUNS for shard in SHARDS}
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
