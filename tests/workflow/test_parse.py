"""What happens before any job: bad configs and tables stop with one line; plans stay small."""

import pytest

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["cam"]["softmax"].update(targt="x"), "cam.softmax.targt: unknown key `targt`"),
        (lambda c: c["compute"].update(threads="many"), "compute.threads: `many` should be"),
    ],
)
def test_a_bad_config_stops_before_any_job(project, change, line):
    change(project.config)
    result = project.snakemake("-n")
    assert result.code != 0
    assert f"test.yaml: {line}" in result.text
    assert "Traceback" not in result.text
    assert "Job stats" not in result.text


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ("foto\tsoftmax\tinitial", "test, row `a`: texts: unknown entry of `texts` `foto`"),
        ("photo\tsoftmax,target=lgit\tinitial", "target: `lgit` is none of softmax, logit"),
        ("photo\tsoftmax\tcaa,refinement=crff", "refinement: `crff` is none of none, crf"),
    ],
)
def test_an_unknown_name_in_a_row_stops_before_any_job(project, cells, line):
    header = "name\tbase\ttexts\tcam\tmasks\tsegmentation\tseed\tnote\n"
    project.write_runs(f"{header}a\t-\t{cells}\t-\t0\t\n")
    result = project.snakemake("-n")
    assert result.code != 0
    assert line in result.text
    assert "Traceback" not in result.text


def test_the_plan_of_the_demo_is_small(project):
    result = project.snakemake("-n")
    assert result.code == 0, result.text
    assert 30 <= sum(result.jobs.values()) <= 55
    assert "demo_clip" not in result.jobs
