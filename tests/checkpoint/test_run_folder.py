"""The checkpoints of a run: which is the last good one, and how many are kept."""

import shutil
import subprocess

import pytest
import torch

from mutualnet_det.checkpoint import CheckpointError, last_good_checkpoint
from mutualnet_det.checkpoint.run_folder import (
    SUMS,
    TAG,
    add_checkpoint,
    check_good,
    checkpoints,
    mark_last,
    remove_drafts,
)
from mutualnet_det.checkpoint.writing import write_checkpoint

NAMES = ("model_0000002.pth", "model_0000005.pth", "model_final.pth")


def save(folder, name, num_kept=0):
    path = folder / name
    value = float(sum(name.encode()))
    add_checkpoint(
        path, write_checkpoint(str(path), {"model": {"x": torch.tensor(value)}}), num_kept
    )
    return path


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has ended."""
    for name in NAMES:
        save(tmp_path, name)
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def flip(path):
    """Flip a bit in the middle of it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not as it was written"),
    "flipped": (flip, "not as it was written"),
}


def test_newest_first(run):
    assert names(checkpoints(run)) == [*reversed(NAMES)]
    mark_last(run / NAMES[1])  # somebody goes back: what came later does not count
    assert names(checkpoints(run)) == [NAMES[1], NAMES[0]]
    (run / "last_checkpoint").write_text("")  # what a reboot can leave of others' files
    assert names(checkpoints(run)) == [*reversed(NAMES)]
    assert checkpoints(run / "nowhere") == []


def test_last_good_one(run, caplog):
    assert last_good_checkpoint(run) == run / NAMES[2]
    assert not caplog.records


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_one_is_passed_over(run, kind, caplog):
    damage, text = DAMAGES[kind]
    damage(run / NAMES[2])
    assert last_good_checkpoint(run) == run / NAMES[1]
    assert str(run / NAMES[2]) in caplog.messages[0] and text in caplog.messages[0]
    # It counts as the last from now on.
    caplog.clear()
    assert last_good_checkpoint(run) == run / NAMES[1]
    assert not caplog.records


def test_a_mark_that_is_damaged_is_passed_over(run):
    (run / TAG).write_bytes(b"\xff\x00")
    assert last_good_checkpoint(run) == run / NAMES[1]
    assert (run / TAG).read_text() == NAMES[1]


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_sums_what_can_be_read_is_good(run, kind, caplog):
    """As of a run from before there were sums; a flipped bit goes unseen then."""
    (run / SUMS).unlink()
    DAMAGES[kind][0](run / NAMES[2])
    checkpoint = last_good_checkpoint(run)
    assert checkpoint == run / NAMES[2 if kind == "flipped" else 1]


def test_none_is_good(run):
    for name, (damage, _) in zip(NAMES, DAMAGES.values(), strict=False):
        damage(run / name)
    with pytest.raises(CheckpointError) as error:
        last_good_checkpoint(run)
    for text in (*NAMES[1:], "0 bytes", "not as it was written"):
        assert text in str(error.value)
    assert last_good_checkpoint(run / "nowhere") is None


def test_evaluation_takes_no_other_one(run):
    check_good(run / NAMES[2])
    flip(run / NAMES[2])
    with pytest.raises(CheckpointError, match=f"{NAMES[2]}.*{run / NAMES[1]} is good.*--resume"):
        check_good(run / NAMES[2])
    flip(run / NAMES[1])
    flip(run / NAMES[0])
    with pytest.raises(CheckpointError, match="no earlier one that is good"):
        check_good(run / NAMES[2])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_sha256sum_checks_them(run):
    command = ["sha256sum", "--check", "--strict", SUMS]
    subprocess.run(command, cwd=run, check=True, capture_output=True)
    flip(run / NAMES[0])
    printed = subprocess.run(command, cwd=run, capture_output=True, text=True).stdout
    assert printed.splitlines() == [f"{NAMES[0]}: FAILED", *(f"{name}: OK" for name in NAMES[1:])]


def test_old_ones_are_removed(tmp_path):
    torch.save({}, tmp_path / "model_imported.pth")  # not the training's
    for number in range(5):
        save(tmp_path, f"model_{number:07d}.pth", num_kept=2)
    save(tmp_path, "model_final.pth", num_kept=2)
    kept = ["model_0000004.pth", "model_final.pth"]
    assert sorted(names(tmp_path.glob("*.pth"))) == [*kept, "model_imported.pth"]
    assert sorted(line.split()[1] for line in (tmp_path / SUMS).read_text().splitlines()) == kept


def test_what_was_just_written_is_never_removed(run):
    """Though others, of a training that somebody went back from, have higher numbers."""
    save(run, "model_0000001.pth", num_kept=2)
    assert names(checkpoints(run)) == ["model_0000001.pth"]
    assert len(list(run.glob("*.pth"))) == 4


def test_what_killed_writes_leave_is_removed(run):
    (run / ".model_0000008.pth.draft").write_bytes(b"half")
    remove_drafts(run)
    assert not list(run.glob(".*"))
    assert len(list(run.glob("*.pth"))) == 3
