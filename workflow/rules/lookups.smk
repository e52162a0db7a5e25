# Functions that look up inputs and parameters.


def code(*modules):
    """Files of modules and of what they import; a change in one makes the output again."""
    return files_of(*modules)


def entry(group):
    """Parameter: the settings behind the cell in the wildcard called like the group."""

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
    """Inputs of whoever reads a split: its list of ids, and the CSV of labels."""
    if SPLITS[split] is None:
        return []
    listed = IMAGES.split_file(SPLITS[split])  # None: every image of a folder
    labels = None if DATASET["labels"] == "xml" else DATASET["labels"]
    return [file for file in (listed, labels) if file is not None]


def ranking_features(wildcards):
    if table.resolve(config, "texts", wildcards.texts)["template"] != "sharpest":
        return []
    return RESULTS / "prompts" / wildcards.model / "image_features.npz"


def template_list(wildcards):
    """The list that a texts cell takes its template from; none where it names one outright."""
    settings = table.resolve(config, "texts", wildcards.texts)
    listed = settings["template"] == "sharpest" or isinstance(settings["template"], int)
    return local_files(settings["templates"]) if listed else []


def files_of_segmentor(wildcards):
    settings = table.resolve(config, "segmentation", wildcards.segmentation)
    segmentor = checks.read_yaml(settings["segmentor"])
    backbone = segmentor["model"].get("backbone", {})
    named = (backbone.get("architecture"), backbone.get("weights"), segmentor.get("init"))
    return local_files(settings["segmentor"], settings["init"], *named)


def settings_of(*groups):
    """Parameter: everything that the config says about a measurement, for its provenance."""

    def settings(wildcards):
        found = {group: table.resolve(config, group, wildcards[group]) for group in groups}
        model = config["models"][found["cam"]["model"]]
        return {"dataset": DATASET, "model": model, **found}

    return settings


def meta(split):
    """Parameter: what a measurement says of itself beside its figures."""

    def values(wildcards):
        precision = table.resolve(config, "cam", wildcards.cam)["precision"]
        if wildcards.get("segmentation"):
            precision = table.resolve(config, "segmentation", wildcards.segmentation)["precision"]
        seed = wildcards.get("seed")
        return {
            "split": SPLITS[split],
            "precision": precision,
            "seed": None if seed is None else int(seed),
        }

    return values


def receipts(name):
    """The receipts of the archives that a data set is made from, as named inputs."""
    return {source: ROOT / f"archives/{source}.json" for source in ARCHIVES[name]}


def threads_of_prediction(wildcards):
    """A CRF on the predictions is spread over processes; the network is not."""
    test = table.resolve(config, "segmentation", wildcards.segmentation)["test"]
    return COMPUTE["workers" if test["crf"] else "threads"]
