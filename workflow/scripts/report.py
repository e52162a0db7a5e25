"""Write the cost table and the report."""

from pathlib import Path

from clip_wsss.runs.jobs import Made, here, job, prefix_of

p, read, made = snakemake.params, snakemake.input, snakemake.output
reads = list(zip(read.sidecars, p.reads, strict=True))
with job(snakemake.log[0], reads=reads, makes=[Made(made.sidecar, p.stamp, {}, {})]):
    from clip_wsss.report.write import write_report
    from clip_wsss.runs.plan import make_plan
    from clip_wsss.runs.provenance import summary
    from clip_wsss.tables.costs import write_costs

    root = prefix_of(Path(made.page).parent, p.root) / p.root
    config = {**p.config, "dataset": here(p.config["dataset"], read.images)}
    plan = make_plan(config, root=root, scripts=p.scripts)
    write_costs(plan)
    write_report(plan, plan.dataset, made.page, summary(plan.config))
