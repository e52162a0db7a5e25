"""Write the cost table and the report."""

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.costs import write_costs
    from clip_wsss.plan import make_plan
    from clip_wsss.provenance import summary
    from clip_wsss.report import write_report

    plan = make_plan(p.config, "config", p.scripts)
    write_costs(plan)
    write_report(plan, plan.dataset, snakemake.output[0], summary(plan.config))
