"""What an error says fits into one line of a terminal."""

from clip_wsss.core.errors import one_line


def test_nothing_that_a_terminal_obeys_or_hides_is_in_a_line():
    assert one_line("HTTP 999 \x1b[31mred\n here\u200b") == r"HTTP 999 \x1b[31mred here\u200b"
    assert one_line("é 図 x") == "é 図 x"
    assert one_line(KeyError()) == "KeyError"
