"""The tables on the terminal, and the lines of a run."""

import logging
from types import SimpleNamespace

import pandas as pd
import pytest
from snakemake_interface_logger_plugins.common import LogEvent

import snakemake_logger_plugin_clip_wsss as plugin
from clip_wsss.core.csvs import write_csv
from clip_wsss.tables.console import lines


def test_measured_rows_in_columns(tmp_path):
    none = float("nan")
    columns = ["run", "kind", "base", "initial", "refined", "mask", "labels", "segmentation"]
    rows = [
        ["plain", "measured", "", 63.68, none, none, none, none, none, none, none, "fixed"],
        [
            "crf",
            "measured",
            "plain",
            63.9074,
            none,
            76.25,
            none,
            none,
            8.02,
            "yes",
            "mask",
            "fixed",
        ],
        ["2", "measured", "crf", 63.9, none, 70, none, none, -0.04, "no", "mask", "fixed"],
        [
            "or",
            "measured",
            "plain",
            63.68,
            none,
            none,
            none,
            none,
            2,
            "yes",
            "initial oracle - initial",
            "oracle",
        ],
        [
            "to",
            "measured",
            "or",
            63.68,
            none,
            none,
            none,
            none,
            0,
            "no",
            "refined - initial oracle",
            "fixed",
        ],
        ["mask", "measured", "or", 63.68, none, 70, none, none, 1, "yes", "mask", "oracle"],
        # Its mask is its headline and fixed; the map in common with its base is not.
        [
            "on",
            "measured",
            "2",
            63.68,
            none,
            70,
            none,
            none,
            1,
            "no",
            "refined oracle - refined",
            "fixed",
        ],
        ["CLIP-ES", "quoted", "", 50, none, 70, none, none, none, none, none, none],
    ]
    columns += ["difference", "more_than_noise", "difference_of", "scoring"]
    frame = pd.DataFrame(rows, columns=columns)
    write_csv(frame, tmp_path / "ladder.csv")
    assert list(lines(tmp_path / "ladder.csv")) == [
        "run    initial  mask  difference",
        "plain     63.7",
        "crf       63.9  76.2  +8.0 to plain",
        "2         63.9  70.0  +0.0 to crf (noise)",
        "or        63.7        +2.0 to plain (oracle)",
        "to        63.7        +0.0 to or (noise, oracle)",
        "mask      63.7  70.0  +1.0 to or",
        "on        63.7  70.0  +1.0 to 2 (noise, oracle)",
    ]


def test_nothing_that_was_scored_is_no_table(tmp_path):
    row = {"run": "mine", "kind": "measured", "base": "", "difference": float("nan")}
    stages = dict.fromkeys(("initial", "refined", "mask", "labels", "segmentation"), float("nan"))
    write_csv(pd.DataFrame([row | stages]), tmp_path / "images.csv")
    assert list(lines(tmp_path / "images.csv")) == []


@pytest.fixture
def handler(monkeypatch):
    """A handler whose clock says 0, 10, 20, … seconds."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(plugin.time, "monotonic", lambda: float(next(clock)))
    settings = SimpleNamespace(stdout=False, verbose=False, debug_dag=False, dryrun=False)
    return plugin.LogHandler(settings, None)


def record(event=None, msg="", level=logging.INFO, **fields):
    made = logging.LogRecord("snakemake", level, "", 0, msg, (), None)
    made.__dict__.update(event=event, **fields)
    return made


def job(number, rule, words, log=("masks.log",)):
    return record(
        LogEvent.JOB_INFO, jobid=number, rule_name=rule, rule_msg=words, log=list(log), reason=""
    )


def test_a_long_name_of_a_stage_leaves_its_count_apart(handler):
    stats = {"wsss_score_predictions": 1, "mine": 1, "total": 2}
    _, long, short, _ = handler.lines(record(LogEvent.RUN_INFO, stats=stats))
    assert long.split() == ["wsss_score_predictions", "1"]
    assert long.rindex(" ") == short.rindex(" ")


def test_a_line_a_job_with_the_time_left(handler):  # which is made at 0
    stats = {"masks": 2, "maps_new_12ab_3": 1, "all": 1, "total": 4}
    said = handler.lines(record(LogEvent.RUN_INFO, stats=stats))
    assert said == ["3 jobs:", "  masks                 2", "  maps                  1", ""]
    assert handler.lines(job(5, "masks", "masks: crf, shard 1")) == []  # begins at 10
    # Ends at 20; two jobs at 10 s each are left, and a third of the time was spent in jobs, at 30.
    done = handler.lines(record(LogEvent.JOB_FINISHED, job_id=5))
    assert done == ["[1/3] masks: crf, shard 1: 10 s, about 20 s left"]
    handler.lines(job(6, "masks", "masks: crf, shard 2"))  # 40
    handler.lines(job(7, "maps_new_12ab_3", "maps: 3 variants"))  # 50
    # At 60, of 10 s; the masks left take 10 s at their mean.
    done = handler.lines(record(LogEvent.JOB_FINISHED, job_id=7))
    assert done == ["[2/3] maps: 3 variants: 10 s, about 10 s left"]
    done = handler.lines(record(LogEvent.JOB_FINISHED, job_id=6))  # from 40 to 80
    assert done == ["[3/3] masks: crf, shard 2: 40 s"]
    assert handler.lines(record(LogEvent.JOB_FINISHED, job_id=0)) == [], "the target"


def test_a_failure_is_said_once(handler):
    handler.lines(job(5, "masks", "masks: crf, shard 1"))
    error = record(LogEvent.JOB_ERROR, level=40, rule_name="masks", jobid=5, log=["masks.log"])
    assert handler.lines(error) == ["failed: masks: crf, shard 1 (log: masks.log)"]
    for noise in ("Exiting because a job execution failed. Look below", "Complete log(s): x"):
        assert handler.lines(record(None, noise, 40)) == []


def test_what_ctrl_c_stops_did_not_fail(handler):
    handler.lines(job(5, "masks", "masks: crf, shard 1"))
    asked = record(None, "Terminating processes on user request, this might take some time.", 20)
    assert handler.lines(asked) == ["stopping; the same command goes on from here"]
    error = record(LogEvent.JOB_ERROR, level=40, rule_name="masks", jobid=5, log=["masks.log"])
    assert handler.lines(error) == ["stopped: masks: crf, shard 1"]


def test_what_the_workflow_refuses_is_one_line(handler):
    text = 'WorkflowError in file "/x/workflow/rules/common.smk", line 50:\ntest, row `a`: bad\n'
    refused = record(LogEvent.ERROR, f'{text}  File "/x/common.smk", line 50, in <module>', 40)
    assert handler.lines(refused) == ["error: test, row `a`: bad"]
    theirs = record(LogEvent.ERROR, 'WorkflowError in file "/x/Snakefile", line 5:\nbad', 40)
    assert handler.lines(theirs) == ['WorkflowError in file "/x/Snakefile", line 5:', "bad"]


def test_other_messages_stay(handler):
    assert (
        handler.lines(record(None, "Nothing to be done (all requested files are present).")) != []
    )
    assert handler.lines(record(None, "Building DAG of jobs...")) == []
    assert handler.lines(record(LogEvent.WORKFLOW_STARTED)) == []


def test_a_dry_run_lists_few_jobs_and_counts_many(handler):
    for number in range(plugin.FEW):
        handler.lines(job(number, "masks", f"masks: {number}"))
    assert len(handler.listed()) == plugin.FEW
    handler.lines(job(99, "masks", "one more"))
    assert handler.listed() == []


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("maps_new_1_2", "maps"),
        ("wsss_maps_new_1_2", "wsss_maps"),
        ("score_labels", "score_labels"),
        ("inference_1", "inference"),
    ],
)
def test_the_stage_of_a_rule(rule, kind):
    assert plugin.kind(rule) == kind


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99.6, "100 s"), (150, "2 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds, words):
    assert plugin.duration(seconds) == words
