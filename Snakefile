# The stages of the suite, in the order in which data flows through them. A run is one row of a
# runs table (config: runs.tables) and a path through them; runs that agree up to a stage share it.

from snakemake.utils import min_version

from clip_wsss.core.resources import find, use_workflow
from clip_wsss.tables import console

min_version("9.20")

# What a config names and the working directory has not, lies beside this file.
PROJECT = use_workflow(workflow.current_basedir.get_path_or_uri(secret_free=True))

# A config given with --configfile stands alone: the demo's is not merged under it.
if not workflow.overwrite_configfiles:

    configfile: find("config/config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/lookups.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/tags.smk"
include: "workflow/rules/texts.smk"
include: "workflow/rules/maps.smk"
include: "workflow/rules/masks.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        [file for product in (*PLAN.maps, *PLAN.masks) for file in product.files],
        [file for product in (*PLAN.trainings, *PLAN.val, *PLAN.labels) for file in product.files],
        PLAN.tables,
        PLAN.tables_product.sidecar,
        rules.report.output,


# What the run has measured, where its reader looks.
onsuccess:
    for table in GRAPH.tables:
        if (PLAN.store / RESULTS / f"tables/{table}.csv").exists():
            print("", *console.lines(PLAN.store / RESULTS / f"tables/{table}.csv"), sep="\n")
    if (PLAN.store / RESULTS / "report.html").exists():
        print(f"\nThe report: {RESULTS / 'report.html'}")
