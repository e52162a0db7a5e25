"""What the terminal shows of a run: a line a job, with its stage, its time and the time left.

Snakemake finds this module by its name; profiles/default chooses it (`logger: clip-wsss`). All that
Snakemake says is in the log of every run (`.snakemake/log`), and on the terminal with `--verbose`.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

FEW = 24  # jobs that a dry run lists one by one
TARGET = "all"  # the rule that only collects
# Rules whose names say which variants they make; before it a module's prefix may stand.
KINDS = re.compile(r"(\w+_)??(maps|texts|inference|labels)_")
MUTED = {
    LogEvent.WORKFLOW_STARTED,
    LogEvent.SHELLCMD,
    LogEvent.JOB_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.RULEGRAPH,
}
# What Snakemake says beside its events and the lines here say already, or nobody needs.
NOISE = re.compile(
    "Building DAG|Using shell|Assuming unrestricted|Select jobs|Execute \\d+ jobs|Complete log|"
    "Elapsed time|Processed \\d|Storing output|Removing local copy|Touching output|Reasons:|"
    "This was a dry-run|\\s+\\(check individual jobs|Shutting down|Exiting because a job|"
    "Job rate limit|Waiting at most|    \\w+.*\\(.*\\)$|Removing output files of failed job|"
    "Provided |Group jobs: inactive|Conda environments: ignored|Singularity containers: ignored|"
    "At least one job did not complete|WorkflowError:\\nAt least one job did not|RuleException"
)
# What workflow/rules/common.smk refuses, without the place in that file.
REFUSED = re.compile(
    r'WorkflowError in file ".*/common\.smk", line \d+:\n(.*?)(?:\n  File .*)?$', re.DOTALL
)
INTERRUPTED = "Terminating processes on user request"  # how Snakemake answers Ctrl-C
REASONS = [  # how Snakemake begins a reason -> in words
    ("Missing output", "not made yet"),
    ("Forced", "made by other settings, code or inputs"),
    ("Params have changed", "other settings, data or code"),
    ("Updated input", "a newer input"),
    ("Input files updated", "after another job"),
    ("Incomplete", "was interrupted"),
]


@dataclass
class Job:
    """A job that runs, or that a dry run lists."""

    rule: str
    words: str  # the rule's message
    reason: str
    start: float = field(default_factory=lambda: time.monotonic())


def kind(rule: str) -> str:
    """The stage of a rule, without what says which variants it makes."""
    found = KINDS.match(rule)
    return found[0][:-1] if found else rule


def because(reason: str) -> str:
    """The first of Snakemake's reasons in words, or as Snakemake has it."""
    for start, words in REASONS:
        if reason.startswith(start):
            return words
    return reason.partition(":")[0]


def duration(seconds: float) -> str:
    """Seconds as `8 s`, `2 min` or `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


class LogHandler(LogHandlerBase):
    """Writes to the terminal; errors and warnings as Snakemake has them."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.jobs: dict[int, Job] = {}
        self.waiting: Counter[str] = Counter()  # stage -> jobs that are not finished
        self.times: dict[str, list[float]] = {}  # stage -> seconds of its finished jobs
        self.start = time.monotonic()
        self.total = self.done = 0
        self.interrupted = False
        self.status = ""  # the line that the next one overwrites

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a record means to the reader."""
        try:
            for line in self.lines(record):
                self.write(line)
            self.show_status()
        except Exception:
            self.handleError(record)

    def lines(self, record: logging.LogRecord) -> list[str]:
        """The lines for a record; none for most of them."""
        event = getattr(record, "event", None)
        if self.common_settings.verbose or event == LogEvent.DEBUG_DAG:
            if event == LogEvent.DEBUG_DAG and not self.common_settings.debug_dag:
                return []
            return self.format(record).splitlines()
        if getattr(record, "rule_name", None) == TARGET:
            return []
        if event == LogEvent.JOB_INFO:
            self.jobs[record.jobid] = Job(
                record.rule_name, record.rule_msg or record.rule_name, record.reason
            )
        elif event == LogEvent.JOB_FINISHED:
            return self.finished(record.job_id)
        elif event == LogEvent.RUN_INFO:
            return self.planned(record.stats)
        elif event == LogEvent.JOB_ERROR:
            return self.stopped(record)
        elif event == LogEvent.ERROR and (found := REFUSED.match(record.msg)):
            return [f"error: {line}" for line in found[1].splitlines()]
        elif str(record.msg or "").startswith(INTERRUPTED):
            self.interrupted = True
            return ["stopping; the same command goes on from here"]
        elif event in MUTED or event == LogEvent.PROGRESS:
            return []
        elif record.levelno >= logging.INFO and not NOISE.match(str(record.msg or "").lstrip("\n")):
            return str(record.msg or "").strip("\n").splitlines()
        return []

    def planned(self, stats: dict[str, int]) -> list[str]:
        """The jobs of a run by stage, once; those of a dry run one by one if they are few."""
        if self.total:
            return []
        for rule, count in stats.items():
            if rule not in ("total", TARGET):
                self.waiting[kind(rule)] += count
        self.total = sum(self.waiting.values())
        width = max([22, *(len(name) + 1 for name in self.waiting)])  # a module's prefix is long
        lines = [f"  {name:<{width}}{n}" for name, n in self.waiting.items()]
        return [f"{self.total} jobs:", *lines, ""]

    def listed(self) -> list[str]:
        """The jobs of a dry run with their reasons, if they are few."""
        if len(self.jobs) > FEW:
            return []
        return [f"{job.words} ({because(job.reason)})" for job in self.jobs.values()]

    def finished(self, number: int) -> list[str]:
        """A job's line."""
        if (job := self.jobs.pop(number, None)) is None:
            return []
        took, stage = time.monotonic() - job.start, kind(job.rule)
        self.done += 1
        self.waiting[stage] -= 1
        self.times.setdefault(stage, []).append(took)
        width = len(str(self.total))
        left = f", about {self.left()} left" if self.done < self.total else ""
        return [f"[{self.done:>{width}}/{self.total}] {job.words}: {duration(took)}{left}"]

    def left(self) -> str:
        """What is to be done, at the mean time of the stage's jobs, or of all where it had none."""
        took = [seconds for times in self.times.values() for seconds in times]
        mean = sum(took) / len(took)
        known = {stage: sum(times) / len(times) for stage, times in self.times.items()}
        todo = sum(count * known.get(stage, mean) for stage, count in self.waiting.items())
        beside = max(1.0, sum(took) / (time.monotonic() - self.start))  # jobs at a time
        return duration(todo / beside)

    def stopped(self, record: logging.LogRecord) -> list[str]:
        """A failed job's line. Where it ran here, what it said stands above."""
        job = self.jobs.pop(record.jobid, None)
        words = job.words if job else record.rule_name
        if self.interrupted:
            return [f"stopped: {words}"]
        logs = ", ".join(record.log)
        return [f"failed: {words}" + (f" (log: {logs})" if logs else "")]

    def write(self, line: str) -> None:
        """Write a line in place of the status."""
        blank = "\r" + " " * len(self.status) + "\r" if self.status else ""
        self.status = ""
        self.stream.write(f"{blank}{line}\n")
        self.stream.flush()

    def show_status(self) -> None:
        """On a terminal, what runs now; the next line overwrites it."""
        if not self.stream.isatty() or self.common_settings.dryrun:
            return
        names = Counter(kind(job.rule) for job in self.jobs.values())
        running = ", ".join(name if n == 1 else f"{n} {name}" for name, n in names.items())
        text = f"running: {running}"[:78] if running else ""
        self.stream.write(f"\r{text:<{len(self.status)}}" + ("" if text else "\r"))
        self.stream.flush()
        self.status = text

    def close(self) -> None:
        """End the list of a dry run, and take the status away."""
        if self.common_settings.dryrun:
            for line in self.listed():
                self.write(line)
            self.jobs.clear()
        elif self.status:
            self.stream.write("\r" + " " * len(self.status) + "\r")
            self.stream.flush()
        super().close()
