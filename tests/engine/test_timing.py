"""The time of a step's parts: nothing is counted twice, and a GPU is not waited for."""

import time

import pytest
import torch

from mutualnet_det.engine.timing import StepTimer


class Clock:
    """A clock that only passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def work(self, seconds):
        self.now += seconds


class Gpu:
    """
    A GPU that works off a queue while the host goes on.

    Times are in seconds of the host's clock; an event's time is when the queue comes to it.
    """

    def __init__(self, monkeypatch):
        self.host = 0.0
        self.free_at = 0.0
        self.streams = []
        self.num_waits = 0
        gpu = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing
                self.at = None

            def record(self, stream):
                gpu.streams.append(stream)
                self.at = gpu.free_at = max(gpu.host, gpu.free_at)

            def synchronize(self):
                gpu.num_waits += 1
                gpu.host = max(gpu.host, self.at)

            def elapsed_time(self, end):
                assert gpu.host >= end.at, "CUDA raises for an event that has not been reached"
                return (end.at - self.at) * 1000

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")

    def launch(self, seconds):
        """Something that takes the GPU so long and the host 1 ms."""
        self.host += 0.001
        self.free_at = max(self.host, self.free_at) + seconds

    def work(self, seconds):
        """Something that the host does alone."""
        self.host += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(monkeypatch)


def test_parts_that_come_again_add_up_and_what_is_in_none_is_not_counted(clock):
    timer = StepTimer("cpu")
    for seconds in (1, 2):
        with timer("student_forward"):
            clock.work(seconds)
        clock.work(100)
        with timer("optimizer"):
            clock.work(10 * seconds)
    assert timer.collect() == {"student_forward": 3, "optimizer": 30}


def test_a_part_inside_another_is_counted_once(clock):
    timer = StepTimer("cpu")
    with timer("backward"):
        clock.work(1)
        with timer("reduce"):
            clock.work(2)
            with timer("backward"):
                clock.work(4)
        clock.work(8)
    assert timer.collect() == {"backward": 13, "reduce": 2}


def test_collecting_starts_anew(clock):
    timer = StepTimer("cpu")
    assert timer.collect() == {}
    with timer("data"):
        clock.work(1)
    assert timer.collect() == {"data": 1}
    assert timer.collect() == {}
    with timer("data"):
        clock.work(2)
    assert timer.collect() == {"data": 2}


def test_a_part_that_fails_is_counted_and_closed(clock):
    timer = StepTimer("cpu")
    with pytest.raises(FloatingPointError), timer("teacher_forward"):
        clock.work(1)
        raise FloatingPointError
    clock.work(10)
    with timer("optimizer"):
        clock.work(2)
    assert timer.collect() == {"teacher_forward": 1, "optimizer": 2}


def test_a_gpu_is_read_only_when_its_times_are_collected(gpu):
    timer = StepTimer("cuda:1")
    for _ in range(2):
        with timer("teacher_forward"):
            gpu.launch(0.5)
        with timer("teacher_backward"):
            gpu.launch(1.0)
            with timer("reduce"):
                gpu.launch(0.25)
    assert gpu.num_waits == 0 and gpu.host == pytest.approx(0.006)
    # The GPU starts 1 ms after the first mark, which is in the first part.
    expected = {"teacher_forward": 1.001, "teacher_backward": 2.0, "reduce": 0.5}
    assert timer.collect() == pytest.approx(expected)
    assert gpu.num_waits == 1
    assert set(gpu.streams) == {"stream of cuda:1"}


def test_waiting_for_data_counts_as_far_as_it_leaves_a_gpu_idle(gpu):
    timer = StepTimer("cuda")
    gpu.launch(0.5)
    with timer("data"):
        gpu.work(0.75)
    assert timer.collect() == pytest.approx({"data": 0.25})
    gpu.launch(0.5)
    with timer("data"):
        gpu.work(0.25)
    assert timer.collect() == {"data": 0}


def test_nothing_to_wait_for(gpu):
    assert StepTimer("cuda").collect() == {} and gpu.num_waits == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu():
    timer = StepTimer("cuda")
    for _ in range(2):  # the first loads the kernels
        with timer("sleep"):
            torch.cuda._sleep(50_000_000)
        with timer("idle"):
            pass
        timer_read = timer.collect()
    assert timer_read["sleep"] > 0.005 > timer_read["idle"]
