"""Write the cost table and the report."""

from pathlib import Path

from clip_wsss.jobs import here, job, prefix_of

p, out = snakemake.params, snakemake.output[0]
with job(snakemake.log[0]):
    from clip_wsss.costs import write_costs
    from clip_wsss.plan import make_plan
    from clip_wsss.provenance import summary
    from clip_wsss.report import write_report

    root = prefix_of(Path(out).parent, p.root) / p.root
    config = {**p.config, "dataset": here(p.config["dataset"], snakemake.input.images)}
    plan = make_plan(config, root=root, scripts=p.scripts)
    write_costs(plan)
    write_report(plan, plan.dataset, out, summary(plan.config))
