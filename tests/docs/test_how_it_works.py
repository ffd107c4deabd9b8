"""The hundred lines of docs/how_it_works.py: they learn at every point, and narrower is cheaper."""

import importlib.util
import itertools

import pytest
import torch


@pytest.fixture
def how_it_works(request):
    path = request.config.rootpath / "docs" / "how_it_works.py"
    spec = importlib.util.spec_from_file_location("how_it_works", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_at_every_operating_point(how_it_works, capsys, request):
    with torch.random.fork_rng():
        before, after = how_it_works.main(steps=60)

    assert before.keys() == after.keys() == set(how_it_works.GRID)
    for point, (cost, loss, _) in after.items():
        assert cost == before[point][0]
        assert loss < 0.6 * before[point][1], point
    for resolution in how_it_works.RESOLUTIONS:
        costs = [after[point][0] for point in sorted(after) if point.resolution == resolution]
        assert all(narrow < 0.5 * wide for narrow, wide in itertools.pairwise(costs))

    # The page shows what a whole training prints: points and costs are the same.
    shown = (request.config.rootpath / "docs" / "how_it_works.txt").read_text()
    printed = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()] == [
        line.split()[:2] for line in printed.splitlines()
    ]
