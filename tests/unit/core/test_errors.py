"""What an error says fits into one line of a terminal."""

import errno
import os
import pickle

import pytest

from clip_wsss.core.errors import InputError, one_line, stopped


def test_nothing_that_a_terminal_obeys_or_hides_is_in_a_line():
    assert one_line("HTTP 999 \x1b[31mred\n here\u200b") == r"HTTP 999 \x1b[31mred here\u200b"
    assert one_line("é 図 x") == "é 図 x"
    assert one_line(KeyError()) == "KeyError"
    with pytest.raises(AssertionError) as caught:
        assert min(3, 4) == 4
    said = AssertionError().with_traceback(caught.value.__traceback__)
    assert one_line(said).startswith("assert min(3, 4) == 4")
    assert one_line(AssertionError()) == "AssertionError"


def test_a_message_shows_what_a_terminal_would_obey_or_hide_and_keeps_its_lines():
    said = InputError("a\u200b\x1b[0m\nb\xa0\n")
    assert str(said) == "a\\u200b\\x1b[0m\nb\\xa0\n"
    assert str(pickle.loads(pickle.dumps(said))) == str(said)


def test_of_a_line_that_no_terminal_shows_the_ends_are_told():
    long = str(InputError("first: " + "x" * 10**7 + "; last\n" + "y" * 2000))
    first, second = long.split("\n")
    assert first.startswith("first: xxx")
    assert first.endswith("x; last")
    assert " [9998013 more characters] " in first
    assert second == "y" * 2000


@pytest.mark.parametrize("number", [errno.EFBIG, errno.ENOSPC, errno.EDQUOT])
def test_a_file_that_the_disk_does_not_take_is_one_line(number, capsys):
    # FAULTS 29
    assert stopped(OSError(number, os.strerror(number)), "masks") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: masks: {os.strerror(number)}; ")
    assert error.endswith(", and run again\n")
    assert error.count("\n") == 1
