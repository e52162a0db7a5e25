# Functions that look up inputs and parameters.


def unseen(value):
    """A parameter that Snakemake does not compare: it never records those that take `output`."""
    if callable(value):
        return lambda wildcards, output: value(wildcards)
    return lambda wildcards, output: value


def plural(things, word):
    """How many there are, for the line of a job."""
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def needs(stage):
    """Resources: what a scheduler is asked for, twice as much at each further attempt."""
    need = COMPUTE.needs.get(stage, NEEDS[stage])
    return {
        "mem_mb": lambda wildcards, attempt: need.memory * 2 ** (attempt - 1),
        "runtime": lambda wildcards, attempt: need.minutes * 2 ** (attempt - 1),
    }


def stamp_of(stage):
    """Parameter: the stamp of the node in the wildcards."""
    return lambda wildcards: PLAN.stamp(GRAPH.node(stage, wildcards.node))


def settings_of(stage):
    """Parameter: the settings of the node in the wildcards."""
    return unseen(lambda wildcards: GRAPH.node(stage, wildcards.node).settings)


def image_files(*splits):
    """Parameter: for the sidecar, what the images are that a job reads, or its shard of them."""
    return unseen(lambda wildcards: GRAPH.image_files(*splits, shard=wildcards.get("shard")))


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


def forced(products):
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


def fresh(products):
    """Input: the report of the check, before which nothing is made; else as `forced`.

    The check runs again when a list or a setting has changed, and what is current must not run
    after it: so the report is `ancient` for that. For what is to be made it is not, since
    Snakemake (9.27) looks for no other reason in what depends on a job that runs; and with --touch
    it would touch no more than the report.
    """

    def look(wildcards):
        made = products(wildcards)
        forced(lambda wildcards: made)(wildcards)
        touch = bool({"--touch", "-t"} & set(sys.argv))
        wanted = touch or any(map(PLAN.wanted, made))
        if UNCHECKED and (wanted or STOPPED):
            workflow.dag.forcefiles.add(in_storage(CHECKED))
        return CHECKED if wanted else ancient(CHECKED)

    return look


def in_storage(path):
    """A path as Snakemake knows it, which is elsewhere with a default storage."""
    return workflow.modifier.path_modifier.apply_default_storage(str(path))


def fetch(product):
    """Bring outputs that a job may keep to where it runs.

    Snakemake 9.27 wants to back them up there, without having fetched them.
    """
    provenance = product.sidecar.with_name("provenance.json")  # of a measurement
    for path in (product.sidecar, *product.files, provenance):
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


def mask_of_current(kind, one):
    """The bits of the nodes of a pass that are there as planned, the first node being the lowest.

    In the process of a job, where its outputs were just deleted, the name of its rule says what the
    disk cannot.
    """
    if not workflow.is_main_process:
        pattern = rf"{kind}_(new_\w*?)?{one.name}_([0-9a-f]+)(?![0-9a-f])"
        for new, mask in re.findall(pattern, " ".join(sys.argv)):
            return (1 << len(one.nodes)) - 1 & ~int(mask, 16) if new else int(mask, 16)
    return one.mask(PLAN.current(one))


def rules_of(kind, passes):
    """The rules of some passes: name -> each pass with the nodes of it that the rule makes.

    One rule makes all that is missing, since each job imports torch and more again; what is there
    has a rule a pass.
    """
    found, missing = {}, []
    for one in passes:
        here = mask_of_current(kind, one)
        if here:
            found[f"{kind}_{one.name}_{here:x}"] = [(one, one.subset(here))]
        if other := (1 << len(one.nodes)) - 1 & ~here:
            missing.append((one, other))
    if missing:
        name = "_".join(f"{one.name}_{mask:x}" for one, mask in missing)
        found[f"{kind}_new_{name}"] = [(one, one.subset(mask)) for one, mask in missing]
    return found


def folder_of(rule):
    """Where the logs of such a rule go. A name of many passes is too long for a folder."""
    digest = hashlib.sha256(rule.encode()).hexdigest()[:8]
    return f"new-{digest}" if "_new_" in rule else rule.partition("_")[2].replace("_", "-")


def products_of(nodes):
    """A function of the wildcards that gives the files of features and ranked texts."""
    return lambda wildcards: [product for node in nodes for product in PLAN.products(node)]


def outputs_of(nodes, stage, index):
    """Outputs: a file of each of some nodes that is of a stage."""
    return [
        product.files[index]
        for node in nodes
        for product in PLAN.products(node)
        if node.stage == stage
    ]


def read_of(texts):
    """A function of the wildcards that gives the features that rank texts, made by other jobs."""
    features = [node.parents[0] for node in texts if node.stage == "texts"]
    return lambda wildcards: [
        PLAN.features(node) for node in dict.fromkeys(features) if node not in texts
    ]


def names_of(features):
    """The nodes of image features, by the names of their folders."""
    return lambda wildcards: [product.sidecar.parent.name for product in features(wildcards)]


def shards_of(nodes):
    """A function of the wildcards that gives a shard of each node of maps."""
    return lambda wildcards: [PLAN.shard(node, wildcards.shard) for node in nodes]


def map_files(nodes, ending):
    """Outputs: the shards of some nodes, or their sidecars."""
    return [RESULTS / node.folder / f"{{shard}}.{ending}" for node in nodes]


def texts_of_maps(passes):
    """A function of the wildcards that gives the ranked texts that some passes read."""
    return lambda wildcards: [PLAN.texts(one.texts) for one, _ in passes if one.texts]


def maps_of_masks(wildcards):
    """The shard of maps that masks are made from; none for masks that are taken as they are."""
    node = GRAPH.node("masks", wildcards.node)
    return [] if node.settings["source"] != "maps" else before("masks")(wildcards)


def texts_of_masks(wildcards):
    """The ranked texts that masks read, if their refinement may ask for the cam's tower."""
    return PLAN.texts_read(GRAPH.node("masks", wildcards.node))


def read_by_masks(wildcards):
    """Everything that masks read and a job has made."""
    return maps_of_masks(wildcards) + texts_of_masks(wildcards)


def seen_by_masks(wildcards):
    """What the mask refinement may ask for."""
    return PLAN.seen(GRAPH.node("masks", wildcards.node))


def gpu_of_masks(wildcards):
    """A GPU where the mask refinement runs on one."""
    node = GRAPH.node("masks", wildcards.node)
    on_gpu = (node.settings.get("crf") or {}).get("backend") == "torch"
    return GPU * int(on_gpu or "towers" in (PLAN.seen(node) or {}))


def masks_of_training(wildcards):
    """The masks that a training reads."""
    return PLAN.masks_read(GRAPH.node("segmentation", wildcards.node))


def texts_of_training(wildcards):
    """The ranked texts that a training reads: for labels that it makes itself, or a text head."""
    return PLAN.texts_read(GRAPH.node("segmentation", wildcards.node))


def read_by_training(wildcards):
    """Everything that a training reads and a job has made."""
    return masks_of_training(wildcards) + texts_of_training(wildcards)


def trainings(wildcards):
    """The training in the wildcards, in a list."""
    return [PLAN.training(GRAPH.node("segmentation", wildcards.node), wildcards.seed)]


def predictions(predicted, split):
    """A function of the wildcards that gives the predictions of a split."""
    return lambda wildcards: [PLAN.predictions(*one, split) for one in predicted]


def predicted_files(predicted, name):
    """Outputs: a file of each training's predictions, kept where it would come out the same."""
    folders = [GRAPH.training(*one) for one in predicted]
    return [update(RESULTS / folder / name) for folder in folders]


def unused(name):
    """What the log and the benchmark of a job are called that adds to what others of it have made.

    Theirs say what that took, so they stay: a later job has a number behind its name.
    """
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(one for one in names if not (PLAN.store / BENCHMARKS / f"{one}.tsv").exists())


def trained(predicted):
    """A function of the wildcards that gives the trainings that they are made by."""
    return lambda wildcards: [PLAN.training(node.parents[0], seed) for node, seed in predicted]


def texts_of_labels(labelled):
    """A function of the wildcards that gives the ranked texts that their makers read."""
    return lambda wildcards: [
        text for node, _ in labelled for text in PLAN.texts_read(node.parents[0])
    ]


def threads_of_inference(predicted):
    """A mask refinement is spread over processes; the network is not."""
    refined = any(node.settings["refinement"] != "none" for node, _ in predicted)
    return COMPUTE.workers if refined else COMPUTE.threads


def scores_of(measured):
    """A function of the wildcards that gives some measurements."""
    return lambda wildcards: [PLAN.score(*one) for one in measured]


def read_by(measured):
    """A function of the wildcards that gives what they are made from, one after the other."""
    return lambda wildcards: [
        product for one in measured for product in PLAN.score(*one).inputs["read"]
    ]


def scored(measured, name):
    """Outputs: a file of each measurement, which is kept where it would come out the same."""
    return [update(PLAN.score(*one).sidecar.with_name(name)) for one in measured]


def described(path):
    """An output, in Snakemake's own report where it is for reading."""
    name = Path(path).relative_to(RESULTS).as_posix()
    if name in [f"tables/{table}.csv" for table in GRAPH.tables]:
        return report(path, caption="../report/ladder.rst", category="Runs")
    if name in DESCRIBED:
        caption = f"../report/{Path(name).stem}.rst"
        return report(path, caption=caption, category=DESCRIBED[name])
    return path
