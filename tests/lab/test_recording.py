"""Results recorded in a folder of their own."""

import json
import os

import pytest

from mutualnet_det.errors import UserError
from mutualnet_det.lab.recording import read_provenance, record


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "study"
    folder.mkdir(parents=True)
    (folder / "command.sh").write_text(
        "mkdir -p output\necho 28.5 > output/ap.csv\necho counted\necho warned >&2\n"
    )
    return folder


def test_what_commands_print_and_write_is_kept_with_its_origin(folder):
    record(folder, keep=["printed", "output/ap.csv"], seeds=[0, 1], note="one core was busy")
    assert (folder / "output.txt").read_text() == "counted\n"
    assert (folder / "ap.csv").read_text() == "28.5\n"
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["files"] == {"output.txt": "printed", "ap.csv": "output/ap.csv"}
    assert provenance["seeds"] == [0, 1] and provenance["note"] == "one core was busy"
    assert "core" in provenance["machine"] and "torch" in provenance["versions"]
    assert provenance.keys() >= {"schema", "date", "commit"}


def test_a_result_is_repeated_by_its_name(folder):
    record(folder, keep=["output/ap.csv"], seeds=[3], note="quiet")
    command = folder / "command.sh"
    command.write_text(command.read_text().replace("28.5", "29.0"))
    record(folder)
    assert (folder / "ap.csv").read_text() == "29.0\n"
    provenance = read_provenance(folder)
    assert (provenance["seeds"], provenance["note"]) == ([3], "quiet")
    assert not (folder / "output.txt").exists()


def test_commands_that_fail_leave_the_last_record(folder):
    record(folder)
    (folder / "command.sh").write_text("echo half\nfalse\necho whole\n")
    with pytest.raises(UserError, match="ended with status 1; nothing was recorded"):
        record(folder)
    assert (folder / "output.txt").read_text() == "counted\n"


def test_what_ran_already_is_not_run_again(folder):
    (folder.parents[1] / "output").mkdir()
    made = folder.parents[1] / "output" / "ap.csv"
    made.write_text("27.0\n")
    os.utime(made, (0, 0))
    record(folder, keep=["output/ap.csv"], done_at="abc1234")
    assert (folder / "ap.csv").read_text() == "27.0\n"
    provenance = read_provenance(folder)
    assert (provenance["commit"], provenance["date"]) == ("abc1234", "1970-01-01")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": ["output/none.csv"]}, "left no output/none.csv"),
        ({"keep": ["a/ap.csv", "b/ap.csv"]}, "have one name"),
        ({"done_at": "abc1234"}, "printed is lost"),
    ],
)
def test_errors_say_what_lacks(folder, options, message):
    with pytest.raises(UserError, match=message):
        record(folder, **options)
    assert not (folder / "provenance.json").exists()


def test_commands_are_written_by_hand(tmp_path):
    with pytest.raises(UserError, match=r"There is no .*command\.sh: write the commands"):
        record(tmp_path)
