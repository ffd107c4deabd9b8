"""The end of one process is the end of all; long work is not."""

import signal
import socket
from pathlib import Path

import pytest

CASES = ("killed", "stopped", "first_killed", "first_stopped", "failed", "left", "ended", "alone")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def ends(start_script, exit_codes, tmp_path_factory):
    """By case: exit codes, process numbers and what was said, of both ranks."""
    folder = tmp_path_factory.mktemp("watch")
    started = {}
    for case in CASES:  # all at once: they mostly sleep
        port = free_port()
        started[case] = [
            start_script("watch_script.py", case=case, rank=rank, port=port, folder=str(folder))
            for rank in range(2)
        ]
    outcomes = {}
    for case, processes in started.items():
        codes = exit_codes(processes, 50)
        texts = [Path(folder, f"{case}_{rank}.txt").read_text() for rank in range(2)]
        outcomes[case] = (codes, [p.pid for p in processes], texts)
    return outcomes


def who(rank, pids):
    return f"rank {rank} on {socket.gethostname()} (pid {pids[rank]})"


def test_a_killed_process_ends_the_other(ends):
    codes, pids, texts = ends["killed"]
    assert codes == [1, -signal.SIGKILL]
    assert f"error: {who(1, pids)} has died\n" in texts[0]


def test_a_stuck_process_ends_the_other_and_is_killed(ends):
    codes, pids, texts = ends["stopped"]
    assert codes == [1, -signal.SIGKILL]
    assert f"error: {who(1, pids)} has not reported for 2 s\n" in texts[0]


@pytest.mark.parametrize("case", ["first_killed", "first_stopped"])
def test_so_does_the_one_that_keeps_the_store(ends, case):
    codes, pids, texts = ends[case]
    assert codes == [-signal.SIGKILL, 1]
    assert f"error: {who(0, pids)} has died" in texts[1]


def test_the_others_give_one_cause(start_script, exit_codes, tmp_path):
    """The end of the process that finds the cause, or that keeps the store, is no other one."""
    job = {"case": "killed_of_three", "port": free_port(), "folder": str(tmp_path), "world_size": 3}
    processes = [start_script("watch_script.py", rank=rank, **job) for rank in range(3)]
    assert exit_codes(processes, 50) == [1, -signal.SIGKILL, 1]
    cause = f"{who(1, [p.pid for p in processes])} has died"
    texts = [Path(tmp_path, f"killed_of_three_{rank}.txt").read_text() for rank in (0, 2)]
    assert f"error: {cause}\n" in texts[0]
    for text in texts:
        assert cause in text and text.count("has died") <= 2 and "rank 0" not in text


def test_an_error_of_one_is_told_by_the_other(ends):
    codes, pids, texts = ends["failed"]
    assert codes == [1, 1]
    assert f"error: {who(1, pids)} has stopped: ValueError: broken\n" in texts[0]


def test_a_process_that_leaves_ends_the_other(ends):
    codes, pids, texts = ends["left"]
    assert codes == [1, 75]
    assert f"error: {who(1, pids)} has stopped before the others\n" in texts[0]


def test_a_process_may_end_before_the_others(ends):
    assert ends["ended"][0] == [0, 0]


def test_the_first_process_may_work_alone_for_long(ends):
    assert ends["alone"][0] == [0, 0]
