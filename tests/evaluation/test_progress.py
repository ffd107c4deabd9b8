"""What an interrupted evaluation keeps: a kill at any instant loses one commit at most."""

import pytest

from mutualnet_det.evaluation import progress as progress_module
from mutualnet_det.evaluation.progress import Progress, ProgressError
from mutualnet_det.slimmable import OperatingPoint

POINTS = (OperatingPoint(0.25, 64), OperatingPoint(1.0, 64))


def start(folder, resume=True, **identity):
    identity = {"weights": "a", "points": ["0.25x64", "1.00x64"], **identity}
    return Progress(folder, identity, POINTS, resume)


def records(*image_ids):
    return {point: [{"image_id": i, "at": str(point)} for i in image_ids] for point in POINTS}


def image_ids(progress):
    return [[record["image_id"] for record in progress.records(point)] for point in POINTS]


def test_continues_with_what_was_committed(tmp_path):
    progress = start(tmp_path / "p")
    progress.commit(records(1, 2))
    progress.commit(records(3))
    again = start(tmp_path / "p")
    assert again.num_images == 3 and image_ids(again) == [[1, 2, 3]] * 2
    again.commit(records(4))
    assert image_ids(start(tmp_path / "p")) == [[1, 2, 3, 4]] * 2
    assert [r["at"] for r in again.records(POINTS[1])] == ["1.00x64"] * 4


@pytest.mark.parametrize("killed_at", ["open", "replacing"])
def test_a_kill_within_a_commit_loses_that_commit_alone(tmp_path, monkeypatch, killed_at):
    progress = start(tmp_path / "p")
    progress.commit(records(1))
    calls = []

    def kill(*args, **kwargs):
        calls.append(args)
        if killed_at == "replacing" or len(calls) == 2:  # between the files of two points
            raise KeyboardInterrupt
        return open(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(progress_module, killed_at, kill, raising=False)
        with pytest.raises(KeyboardInterrupt):
            progress.commit(records(2, 3))
    again = start(tmp_path / "p")
    assert again.num_images == 1 and image_ids(again) == [[1]] * 2
    again.commit(records(2, 3))
    assert image_ids(start(tmp_path / "p")) == [[1, 2, 3]] * 2


def test_starts_afresh_unless_asked_to_resume(tmp_path):
    start(tmp_path / "p").commit(records(1))
    progress = start(tmp_path / "p", resume=False)
    progress.commit(records(7))
    assert image_ids(start(tmp_path / "p")) == [[7]] * 2


def test_refuses_to_continue_another_evaluation(tmp_path):
    start(tmp_path / "p").commit(records(1))
    with pytest.raises(ProgressError, match="weights: there a, here b.*without --resume"):
        start(tmp_path / "p", weights="b")
    assert start(tmp_path / "p").num_images == 1  # nothing was lost


def test_refuses_files_that_were_cut(tmp_path):
    start(tmp_path / "p").commit(records(1))
    (tmp_path / "p" / "1.00x64.jsonl").write_text("")
    with pytest.raises(ProgressError, match=r"1\.00x64\.jsonl has 0 bytes"):
        start(tmp_path / "p")


def test_keeps_results_of_points(tmp_path):
    progress = start(tmp_path / "p")
    assert progress.result(POINTS[0]) is None
    progress.keep_result(POINTS[0], {"AP": 1.5})
    again = start(tmp_path / "p")
    assert again.result(POINTS[0]) == {"AP": 1.5} and again.result(POINTS[1]) is None
    again.delete()
    assert not (tmp_path / "p").exists()
