"""Two ways are timed in turn, and medians are of pairs."""

import time

import pytest
import torch

from mutualnet_det.lab.bench.pairs import TimedPair, time_pair, timings_table

CPU = torch.device("cpu")


def test_medians_are_of_pairs():
    pair = TimedPair.of("it", [(2.0, 1.0), (9.0, 3.0), (8.0, 8.0)])
    assert pair == TimedPair("it", milliseconds=8.0, baseline=3.0, extra=1.0, ratio=2.0)


def test_both_run_in_turn_and_the_first_round_does_not_count(monkeypatch):
    seconds = 0.0
    calls = []

    def taking(name, first, later):
        def run():
            nonlocal seconds
            seconds += later if name in calls else first
            calls.append(name)

        return run

    monkeypatch.setattr(time, "perf_counter", lambda: seconds)
    pair = time_pair("it", taking("a", 9.0, 0.02), taking("b", 9.0, 0.01), rounds=2, device=CPU)
    assert calls == ["a", "b"] * 3
    assert (pair.milliseconds, pair.baseline) == pytest.approx((20, 10))
    assert (pair.extra, pair.ratio) == pytest.approx((10, 2))


def test_the_table_has_a_line_for_each():
    lines = timings_table([TimedPair("it", 8.0, 3.0, 1.0, 2.0)]).splitlines()
    assert lines[0].split("  ")[-1].strip() == "ratio"
    assert lines[-1].split() == ["it", "8.0", "3.0", "1.00", "2.000"]
