"""Write the cost table and the report."""

from clip_wsss.jobs import job

p = snakemake.params
with job(snakemake.log[0]):
    from clip_wsss.config import read_yaml
    from clip_wsss.costs import write_costs
    from clip_wsss.datasets import open_dataset
    from clip_wsss.provenance import summary
    from clip_wsss.report import write_report
    from clip_wsss.runs import read_runs

    runs = read_runs(p.config, read_yaml(snakemake.input.schema))
    write_costs(runs, p.config, p.root, p.tables)
    data, out = open_dataset(p.config["dataset"]), snakemake.output[0]
    write_report(runs, data, p.root, p.config, out, summary(p.config))
