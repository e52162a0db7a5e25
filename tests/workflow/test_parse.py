"""What happens before any job: bad configs and tables stop with one line; plans stay small."""

import pytest

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["cam"]["softmax"].update(targt="x"), "cam.softmax.targt: unknown key `targt`"),
        (lambda c: c["compute"].update(threads="many"), "compute.threads: must be an integer"),
    ],
)
def test_a_bad_config_stops_before_any_job(project, change, line):
    change(project.config)
    result = project.snakemake("-n")
    assert result.code != 0
    assert f"test.yaml: {line}" in result.text
    assert "Traceback" not in result.text
    assert not result.jobs


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ("foto\tsoftmax\t-\t-", "test, row `a`: texts: unknown entry of `texts` `foto`"),
        (
            "photo\tsoftmax,target=lgit\t-\t-",
            "target: must be one of logit, softmax, or package.module:function; got lgit",
        ),
        (
            "photo\tsoftmax\t-\tcrf,refinement=crff",
            "refinement: must be one of crf, none, pamr, par, sepl, or "
            "package.module:function; got crff",
        ),
    ],
)
def test_an_unknown_name_in_a_row_stops_before_any_job(project, cells, line):
    project.write_runs(f"name\ttexts\tcam\taffinity\tmasks\na\t{cells}\n")
    result = project.snakemake("-n")
    assert result.code != 0
    assert line in result.text
    assert "Traceback" not in result.text


@pytest.mark.parametrize("place", ["results", "results/demo"])
def test_a_file_in_the_place_of_the_results_is_said(project, place):
    # FAULTS 29
    path = project.folder / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    result = project.snakemake("-n")
    assert result.code != 0
    assert f"error: {place}: is a file where results must lie; move or rename it" in result.text
    assert "Traceback" not in result.text


def test_the_plan_of_the_demo_is_small(project):
    result = project.snakemake("-n")
    assert result.code == 0, result.text
    assert 12 <= sum(result.jobs.values()) <= 24
    assert "demo_clip" not in result.jobs
