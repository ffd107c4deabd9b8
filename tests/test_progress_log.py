"""When a long work logs a line, and what it says of the time left."""

import pytest

from mutualnet_det import progress_log
from mutualnet_det.progress_log import ProgressLog, clock


@pytest.fixture
def wait(monkeypatch):
    """Lets so many seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(progress_log.time, "monotonic", lambda: now[0])

    def let_pass(seconds):
        now[0] += seconds

    return let_pass


def test_a_line_is_due_once_a_period(wait):
    log = ProgressLog(period=5)
    assert not log.is_due()
    wait(4.9)
    assert not log.is_due()
    wait(0.1)
    assert log.is_due() and not log.is_due()
    wait(5)
    assert log.is_due()


def test_time_left_is_told_at_the_pace_so_far(wait):
    log = ProgressLog()
    wait(30)
    assert log.time_left(1, 3) == "0:01:30"
    wait(30)
    assert log.time_left(4, 0) == "0:00:00"


def test_the_pace_counts_from_when_work_begins(wait):
    log = ProgressLog()
    wait(600)  # processes take their time to start
    assert log.time_left(0, 10) is None
    wait(20)
    assert log.time_left(2, 8) == "0:01:20"


def test_hours_are_not_cut_into_days():
    assert clock(100_000) == "27:46:40"
    assert clock(59.6) == "0:01:00"
