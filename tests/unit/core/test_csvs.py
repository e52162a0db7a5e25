import resource

import numpy as np
import pandas as pd
import pytest

from clip_wsss.core.csvs import (
    guarded,
    markdown_table,
    markdown_text,
    read_csv,
    unguarded,
    write_csv,
)

NAMES = [
    "=1+1",
    "+caa",
    "-crf",
    "@sum",
    "\uff1d1+1",
    "'quoted",
    "'=1",
    "NA",
    "nan",
    "01",
    "1e3",
    "plain",
    'a "b", c',
]


def test_names_come_back_and_no_spreadsheet_computes_them(tmp_path):
    # FAULTS 12
    frame = pd.DataFrame({"run": NAMES, "miou": np.arange(len(NAMES)) - 5.5, "note": ""})
    write_csv(frame, tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[5].startswith("'\uff1d"), "the wide form, which some spreadsheets compute too"
    assert lines[1:5] == ["'=1+1,-5.5,", "'+caa,-4.5,", "'-crf,-3.5,", "'@sum,-2.5,"]
    again = read_csv(tmp_path / "a.csv")
    assert again["run"].tolist() == NAMES
    assert again["miou"].tolist() == frame["miou"].tolist()
    assert again["note"].isna().all()
    assert [unguarded(guarded(value)) for value in (*NAMES, -1, None)] == [*NAMES, -1, None]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("<!--<script>", "&lt;!--&lt;script>"),
        ("a | b", r"a \| b"),
        (r"a\|b", r"a\\\|b"),
        ("two\nlines\u2028more", "two lines more"),
        ("![x](http://a)", r"![x]\(http://a)"),
        ("[57.1, 60.2]", "[57.1, 60.2]"),
        ("&lt; & co", "&amp;lt; & co"),
    ],
)
def test_markdown_shows_a_text_as_it_is(words, shown):
    # FAULTS 12
    assert markdown_text(words) == shown
    assert markdown_table([["a", words]]).count("\n") == 1


def test_a_table_is_whole_or_what_it_was(tmp_path):
    # FAULTS 29
    path, frame = tmp_path / "a.csv", pd.DataFrame({"run": ["a", "b"] * 5000})
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_csv(frame, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "before"
