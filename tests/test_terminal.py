"""Text of other libraries loses its terminal codes."""

import logging

import pytest
from termcolor import colored

from mutualnet_det.errors import UserError, reported
from mutualnet_det.terminal import drop_codes, without_codes


@pytest.mark.parametrize(
    "text",
    [
        colored("a table", "cyan", attrs=["bold"], force_color=True),
        "\x1b[38;5;204ma\x1b[39m\x1b[0m table\x1b[K",
        "\x1b]8;;https://example.org\x1b\\a table\x1b]8;;\x07",
    ],
)
def test_codes_go_and_text_stays(text):
    assert without_codes(text) == "a table"
    record = logging.LogRecord("d2", logging.INFO, "", 1, "%s of %d", (text, 3), None)
    assert drop_codes(record) and record.getMessage() == "a table of 3"


def test_a_record_without_codes_is_left_as_it_is():
    record = logging.LogRecord("d2", logging.INFO, "", 1, "%d%%", (3,), None)
    assert drop_codes(record) and (record.msg, record.args) == ("%d%%", (3,))


def test_errors():
    with pytest.raises(SystemExit, match="^error: no such thing$"), reported():
        raise UserError("no \x1b[31msuch\x1b[0m thing")
