# Tables and the report; and the rule that trains the demo's CLIP again, which nothing asks for.

TABLES = RESULTS / "tables"
NAMES = sorted({run.table for run in RUNS})


rule tables:
    input:
        metrics=METRICS,
        runs=config["runs"]["tables"],
        published=local_files(config["evaluation"]["published"]),
        schema=SCHEMA,
        code=code("tables"),
    output:
        report(
            expand(TABLES / "{name}.csv", name=NAMES),
            caption="../report/ladder.rst",
            category="Runs",
        ),
        expand(TABLES / "{name}.{ending}", name=NAMES, ending=["md", "tex"]),
        report(TABLES / "per_class.csv", caption="../report/per_class.rst", category="Classes"),
        TABLES / "per_class.md",
        TABLES / "figures.csv",
        report(TABLES / "confidence.csv", caption="../report/confidence.rst", category="Runs"),
        TABLES / "headline.csv",
        TABLES / "metrics.json",
        TABLES / "runs.json",
    log:
        LOGS / "tables.log",
    params:
        config=config,
        root=RESULTS,
    script:
        "../scripts/tables.py"


rule report:
    # Writes the cost table too: times differ from run to run, so it is no output that others
    # could depend on.
    input:
        rules.tables.output,
        cams=CAMS,
        masks=MASKS,
        predictions=PREDICTIONS,
        schema=SCHEMA,
        code=code("report", "costs"),
        template=[
            f"src/clip_wsss/report_template/{name}"
            for name in ("template.html.j2", "report.css", "report.js")
        ],
    output:
        report(RESULTS / "report.html", caption="../report/report.rst", category="Report"),
    log:
        LOGS / "report.log",
    params:
        config=config,
        root=RESULTS,
        tables=TABLES,
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
    script:
        "../scripts/demo_clip.py"
