# Tables and the report; and the rule that trains the demo's CLIP again, which nothing asks for.

TABLES = RESULTS / "tables"
SHOWN = [*PLAN.pictured, PLAN.tables_product]  # what the report reads
DESCRIBED = {"tables/per_class.csv": "Classes", "tables/confidence.csv": "Runs"}


rule tables:
    # Also the resolved config, the index of the folders, and settings.yaml in each of them.
    input:
        fresh(lambda wildcards: [PLAN.tables_product]),
        scores=[product.files[0] for product in PLAN.scores],
        counts=[file for product in PLAN.scores for file in product.files[1:]],
        sidecars=[product.sidecar for product in (*PLAN.scores, *PLAN.rankings, *PLAN.trainings)],
        provenance=[product.sidecar.with_name("provenance.json") for product in PLAN.scores],
        logs=[product.files[-1] for product in PLAN.trainings],
        texts=[file for product in PLAN.texts_files for file in product.files],
    output:
        tables=[described(path) for path in PLAN.tables],
        sidecar=PLAN.tables_product.sidecar,
    log:
        LOGS / "tables.log",
    resources:
        **needs("tables"),
    params:
        stamp=PLAN.tables_product.stamp,
        config=unseen(PLAN.config.model_dump()),
        root=unseen(RESULTS),
        scripts=unseen(PLAN.scripts),
    message:
        "tables"
    script:
        "../scripts/tables.py"


rule report:
    # Writes the cost table too: times differ from run to run, so it is not an output that others
    # could depend on.
    input:
        fresh(lambda wildcards: [PLAN.report_product]),
        rules.tables.output,
        rules.tables.input,
        shards=[file for product in (*PLAN.maps, *PLAN.masks) for file in product.files],
        predictions=[file for product in (*PLAN.val, *PLAN.labels) for file in product.files],
        sidecars=[product.sidecar for product in SHOWN],
        images=[*images_of(SPLITS.pseudo), *images_of(SPLITS.val)],
    output:
        page=report(RESULTS / "report.html", caption="../report/report.rst", category="Report"),
        costs=[TABLES / "cost.csv", TABLES / "cost.md"],
        sidecar=PLAN.report_product.sidecar,
    log:
        LOGS / "report.log",
    resources:
        **needs("report"),
    params:
        stamp=PLAN.report_product.stamp,
        reads=unseen([product.stamp for product in SHOWN]),
        config=unseen(PLAN.config.model_dump()),
        root=unseen(RESULTS),
        scripts=unseen(PLAN.scripts),
    message:
        "report"
    script:
        "../scripts/report.py"


rule demo_clip:
    # The checkpoint of an interrupted training lies beside the output, so that it goes on.
    output:
        "results/demo-clip/demo-clip.safetensors",
    log:
        "results/logs/demo_clip.log",
    benchmark:
        "results/logs/demo_clip.tsv"
    resources:
        **needs("segmentation"),
    message:
        "training of the demo's CLIP"
    script:
        "../scripts/demo_clip.py"
