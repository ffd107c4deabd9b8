"""The times of forwards that a latency is made of."""

from mutualnet_det.evaluation.forward import steady_times


def test_the_first_forward_of_a_point_does_not_count():
    forwards = [
        {"milliseconds": 90.0, "is_first": True},
        {"milliseconds": 80.0, "is_first": True},
        {"milliseconds": 10.0},
        {"milliseconds": None},
        {"milliseconds": 11.0},
    ]
    assert steady_times(forwards) == [10.0, 11.0]
    # Images so slow that each is run alone are first at every point.
    assert steady_times(forwards[:2]) == [90.0, 80.0]
