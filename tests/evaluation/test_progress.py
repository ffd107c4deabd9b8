"""What an interrupted evaluation keeps: a kill at any instant loses one commit at most."""

import multiprocessing
from pathlib import Path

import pytest

from mutualnet_det.evaluation import progress as progress_module
from mutualnet_det.evaluation.progress import Part, Progress, ProgressError
from mutualnet_det.slimmable import OperatingPoint

# A process imports torch before it does anything.
START_TIMEOUT = 300  # s
POINTS = (OperatingPoint(0.25, 64), OperatingPoint(1.0, 64))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Opens the same folder again, as a new process would that finds the others gone."""
    monkeypatch.setattr(progress_module, "LOCK_TIMEOUT", 0.2)
    opened = []

    def start(resume=True, threads=1, **identity):
        while opened:
            opened.pop().close()
        identity = {"weights": "a", "points": ["0.25x64", "1.00x64"], **identity}
        progress = Progress(tmp_path / "p", POINTS)
        opened.append(progress)
        progress.begin(identity, threads, resume)
        return progress

    yield start
    for progress in opened:
        progress.close()


def results(*images):
    return [(point, [{"image": i, "at": str(point)} for i in images]) for point in POINTS]


def commit(part, *images):
    part.commit(images, results(*images))


def images_of(progress):
    return [[record["image"] for record in progress.records(point)] for point in POINTS]


def test_continues_with_what_was_committed(start):
    part = start().part(0)
    commit(part, 0, 1)
    commit(part, 2)
    again = start()
    assert again.done() == {0, 1, 2} and images_of(again) == [[0, 1, 2]] * 2
    commit(again.part(0), 3)
    assert images_of(start()) == [[0, 1, 2, 3]] * 2
    assert [record["at"] for record in again.records(POINTS[1])] == ["1.00x64"] * 4


def test_parts_are_merged_in_the_order_of_the_images(start):
    progress = start()
    first, second = progress.part(0), progress.part(1)
    commit(first, 0, 1)
    commit(second, 2, 3)
    commit(first, 6)
    commit(second, 7)
    assert images_of(progress) == [[0, 1, 2, 3, 6, 7]] * 2
    again = start()  # with one process, which goes on with what the other left
    commit(again.part(0), 4, 5)
    assert images_of(start()) == [[0, 1, 2, 3, 4, 5, 6, 7]] * 2


@pytest.mark.parametrize("killed_at", ["open", "replacing"])
def test_a_kill_within_a_commit_loses_that_commit_alone(start, monkeypatch, killed_at):
    part = start().part(0)
    commit(part, 0)
    calls = []
    opened = Path.open

    def kill(*args, **kwargs):
        calls.append(args)
        if killed_at == "replacing" or len(calls) == 2:  # between the files of two points
            raise KeyboardInterrupt
        return opened(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path if killed_at == "open" else progress_module, killed_at, kill)
        with pytest.raises(KeyboardInterrupt):
            commit(part, 1, 2)
    again = start()
    assert again.done() == {0} and images_of(again) == [[0]] * 2
    commit(again.part(0), 3)  # another one next: what was lost must not stand in its place
    assert images_of(start()) == [[0, 3]] * 2


def test_points_are_written_as_they_come(start):
    progress = start()
    part = progress.part(0)

    def coming():
        for number, (point, records) in enumerate(results(0)):
            lines = [path.read_text() for path in progress.folder.glob("part-0/*.jsonl")]
            assert len(lines) == number and all(lines)
            yield point, records

    part.commit([0], coming())


def test_starts_afresh_unless_asked_to_resume(start):
    commit(start().part(3), 1)
    progress = start(resume=False)
    commit(progress.part(0), 7)
    assert images_of(start()) == [[7]] * 2


def test_the_number_of_threads_stays(start):
    assert start(threads=4).threads == 4
    assert start(threads=2).threads == 4
    assert start(threads=2, resume=False).threads == 2


def test_refuses_to_continue_another_evaluation(start):
    commit(start().part(0), 1)
    with pytest.raises(ProgressError, match="weights: there a, here b.*without --resume"):
        start(weights="b")
    assert start().done() == {1}  # nothing was lost


def test_refuses_files_that_were_cut(start, tmp_path):
    commit(start().part(1), 1)
    (tmp_path / "p" / "part-1" / "1.00x64.jsonl").write_text("")
    with pytest.raises(ProgressError, match=r"part-1/1\.00x64\.jsonl has 0 bytes"):
        start()


@pytest.mark.parametrize("resume", [False, True])
def test_two_evaluations_do_not_write_to_one_folder(start, tmp_path, resume):
    commit(start().part(0), 1)
    other = Progress(tmp_path / "p", POINTS)
    with pytest.raises(ProgressError, match="Another evaluation is at work in .*p"):
        other.begin({}, 1, resume)
    assert start().done() == {1}


def hold(progress, ready, stop):
    ready.set()
    stop.wait(START_TIMEOUT)


@pytest.mark.slow
def test_a_process_that_outlives_the_others_keeps_the_folder(start):
    progress = start()
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=hold, args=(progress, ready, stop))
    process.start()
    assert ready.wait(START_TIMEOUT)
    with pytest.raises(ProgressError, match="at work"):
        start()
    stop.set()
    process.join()
    start()


def test_keeps_results_of_points(start):
    progress = start()
    assert progress.result(POINTS[0]) is None
    progress.keep_result(POINTS[0], {"AP": 1.5})
    again = start()
    assert again.result(POINTS[0]) == {"AP": 1.5} and again.result(POINTS[1]) is None
    again.delete()
    assert not list(again.folder.parent.iterdir())


def test_a_kill_while_it_is_deleted_leaves_nothing_to_continue(start, tmp_path, monkeypatch):
    commit(start().part(0), 0)

    def kill(path, **kwargs):
        (path / "evaluation.json").unlink(missing_ok=True)
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress_module.shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            start().delete()
    assert not (tmp_path / "p").exists()
    start().delete()  # what the kill left is not in the way
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_not_there_is_empty(tmp_path):
    part = Part(tmp_path / "part-0", POINTS)
    assert part.images == [] and not (tmp_path / "part-0").exists()
