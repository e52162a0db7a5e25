# The stages of the suite, in the order in which data flows through them. A run is one row of a
# runs table (config: runs.tables); every stage is keyed by the cells that it depends on.

# A config given with --configfile stands alone: the demo's is not merged under it.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


container: "docker://python:3.11-bookworm"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/lookups.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/cams.smk"
include: "workflow/rules/masks.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        MASKS,
        CHECKPOINTS,
        expand(RESULTS / "tables/{name}.csv", name=NAMES),
        RESULTS / "report.html",
