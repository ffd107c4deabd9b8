"""Text of other libraries loses its terminal codes."""

import pytest
from detectron2.utils.logger import setup_logger
from termcolor import colored

from mutualnet_det.errors import UserError, reported
from mutualnet_det.terminal import without_codes, without_colours


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


def test_logs(tmp_path):
    logger = without_colours(setup_logger(str(tmp_path), name="of_a_test"))
    red = colored("red", "red", force_color=True)
    logger.info("%s, %d%%", red, 3)
    logger.warning("plain, %d%%", 4)
    first, second = (tmp_path / "log.txt").read_text().splitlines()
    assert first.endswith("INFO: red, 3%") and second.endswith("WARNING: plain, 4%")


def test_errors():
    with pytest.raises(SystemExit, match="^error: no such thing$"), reported():
        raise UserError("no \x1b[31msuch\x1b[0m thing")
