# Functions that look up inputs and parameters.


def unseen(value):
    """A parameter that Snakemake does not compare: it never records those that take `output`."""
    if callable(value):
        return lambda wildcards, output: value(wildcards)
    return lambda wildcards, output: value


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
    """Input: nothing. A job whose files other settings, code or inputs have made is forced.

    Snakemake sees a changed stamp by its own records; the sidecars tell where it has none.
    """

    def look(wildcards):
        for product in products(wildcards):
            if not workflow.is_main_process:
                fetch(product)
            elif PLAN.stale(product):
                workflow.dag.forcefiles.add(in_storage(product.sidecar))
        return []

    return look


def in_storage(path):
    """A path as Snakemake knows it, which is elsewhere with a default storage."""
    return workflow.modifier.path_modifier.apply_default_storage(str(path))


def fetch(product):
    """Bring outputs that a job may keep to where it runs.

    Snakemake 9.27 wants to back them up there, without having fetched them.
    """
    for path in (product.sidecar, *product.files):
        remote = getattr(in_storage(path), "flags", {}).get("storage_object")
        if remote is not None and remote.exists() and not remote.local_path().exists():
            remote.local_path().parent.mkdir(parents=True, exist_ok=True)
            remote.retrieve_object()


def shard_of(stage):
    """A function of the wildcards that gives the product in them, in a list."""
    return lambda wildcards: [PLAN.shard(GRAPH.node(stage, wildcards.node), wildcards.shard)]


def images_of(split):
    """Inputs of whoever reads a split."""
    return PLAN.images_of(split)


def receipts(name):
    """The receipts of the archives that a data set is made from, as named inputs."""
    return {source: ROOT / f"archives/{source}.json" for source in ARCHIVES[name]}


def features_of(wildcards):
    """The image features that rank the templates of ranked texts."""
    return PLAN.features(GRAPH.node("texts", wildcards.node).parents[0])


def halves(one):
    """The bit masks of the rules of a pass."""
    everything = (1 << len(one.nodes)) - 1
    here = one.mask(PLAN.current(one))
    if not workflow.is_main_process:
        for mask in re.findall(rf"\bmaps_{one.name}_([0-9a-f]+)\b", " ".join(sys.argv)):
            here = int(mask, 16)
    return [mask for mask in (here, everything & ~here) if mask]


def shards_of_pass(nodes):
    """A function of the wildcards that gives what a job of a pass makes."""
    return lambda wildcards: [PLAN.shard(node, wildcards.shard) for node in nodes]


def map_files(nodes, ending):
    """Outputs: the shards of some nodes, or their sidecars."""
    return [RESULTS / node.folder / f"{{shard}}.{ending}" for node in nodes]


def maps_of_masks(wildcards):
    """The shard of maps that masks are made from; none for masks that are taken as they are."""
    node = GRAPH.node("masks", wildcards.node)
    return [] if node.settings["source"] != "maps" else before("masks")(wildcards)


def gpu_of_masks(wildcards):
    """A GPU where the mask refinement runs on one."""
    entry = GRAPH.node("masks", wildcards.node).settings
    return GPU * int((entry.get("crf") or {}).get("backend") == "torch")


def masks_of_training(wildcards):
    """The masks that a training reads."""
    return PLAN.masks_read(GRAPH.node("segmentation", wildcards.node))


def texts_of_training(wildcards):
    """The ranked texts that a training reads if it makes its labels itself."""
    return PLAN.texts_read(GRAPH.node("segmentation", wildcards.node))


def read_by_training(wildcards):
    """Everything that a training reads and a job has made."""
    return masks_of_training(wildcards) + texts_of_training(wildcards)


def trainings(wildcards):
    """The training in the wildcards, in a list."""
    return [PLAN.training(GRAPH.node("segmentation", wildcards.node), wildcards.seed)]


def training_of(wildcards):
    """The training that predictions are made by."""
    return PLAN.training(GRAPH.node("inference", wildcards.node).parents[0], wildcards.seed)


def predictions(wildcards, split):
    """The predictions in the wildcards."""
    return PLAN.predictions(GRAPH.node("inference", wildcards.node), wildcards.seed, split)


def threads_of_inference(wildcards):
    """A mask refinement is spread over processes; the network is not."""
    refinement = GRAPH.node("inference", wildcards.node).settings["refinement"]
    return COMPUTE.threads if refinement == "none" else COMPUTE.workers


def scored(stage, ending):
    """A file of a measurement."""
    return RESULTS / "score" / stage / ending


def node_scored(wildcards):
    """The node whose maps are scored."""
    return GRAPH.node("cam" if wildcards.stage == "initial" else "affinity", wildcards.node)


def maps_scored(wildcards):
    """All shards of these maps."""
    return itself("cam" if wildcards.stage == "initial" else "affinity")(wildcards)


def predictions_of(wildcards):
    """The predictions that are scored."""
    return [predictions(wildcards, "val")]


def described(path):
    """An output, in Snakemake's own report where it is for reading."""
    name = Path(path).relative_to(RESULTS).as_posix()
    if name in [f"tables/{table}.csv" for table in GRAPH.tables]:
        return report(path, caption="../report/ladder.rst", category="Runs")
    if name in DESCRIBED:
        caption = f"../report/{Path(name).stem}.rst"
        return report(path, caption=caption, category=DESCRIBED[name])
    return path
