"""Short tables from a comparison's CSV."""

import pytest

from mutualnet_det.lab.comparison import effects_table, promises_table

HEADER = (
    "method,label,study,point,width,resolution,gflops,kind,mean,spread,by_seed,reference,"
    "difference,difference_spread,p_value,low,high"
)


@pytest.fixture
def comparison(tmp_path):
    """Mutual training is 2 AP above US-Net below 160 px, 1 below it there, and level alone."""
    lines = [HEADER]
    for width in (0.25, 0.5, 0.75, 1.0):
        for resolution in (160, 64):
            margin = 2.0 if resolution == 64 else -1.0
            start = f"{width:.2f}x{resolution},{width},{resolution},1.0,box"
            lines += [
                f'mutual,mutual,,{start},{20 + margin},0.3,"0: {20 + margin}; 1: 20",,,,,,',
                f'us_net,US-Net,,{start},20.0,0.5,"0: 20; 1: 20",mutual,'
                f"{-margin},0.4,{0.01 if width == 1 else 0.2},-3,1",
            ]
    lines.append(
        "alone,alone,One network,1.00x160,1.0,160,1.0,box,19.0,0.1,0: 19; 1: 19,mutual,0,0.2,,0,0"
    )
    path = tmp_path / "comparison.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(table):
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return cells[:1] + cells[2:]


def test_promises_have_their_verdict_margins_and_how_many_are_significant(comparison):
    header, above, not_below, full = rows(promises_table({"shapes": (comparison, "alone")}))
    assert header == ["promise", "AP", "shapes"]
    assert above[1:] == ["box", "holds: +2.0; 1 of 4 significant"]
    assert not_below[1:] == ["box", "**fails**: -1.0; 1 of 4 significant"]
    assert full[1:] == ["box", "holds: +0.0; 0 of 1 significant"]


def test_a_promise_without_scores_is_not_known(comparison):
    table = rows(promises_table({"shapes": (comparison, "independent")}))
    assert table[3][2] == "not known"


def test_effects_are_differences_from_the_first_method(comparison):
    header, reference, us_net, alone = rows(effects_table(comparison, "box"))
    assert header[:3] == ["", "0.25x160", "0.25x64"]
    assert reference[:3] == ["mutual", "19.0 ± 0.3", "22.0 ± 0.3"]
    assert us_net[:3] == ["US-Net", "+1.0 ± 0.4", "-2.0 ± 0.4"]
    assert us_net[-1] == "**-2.0 ± 0.4**"
    assert alone[0] == "One network: alone" and alone[1] == "" and alone[-2] == "+0.0 ± 0.2"
