"""Train the demo's CLIP again, beside the shipped one."""

from pathlib import Path

from clip_wsss.runs.jobs import job

if __name__ == "__main__":  # the training's processes import this file
    with job(snakemake.log[0]):
        from clip_wsss.demo.train import rebuild

        rebuild(Path(snakemake.output[0]).parent, {})
