"""The claims, on scores made up so that each holds or fails by a known margin."""

import pytest

from mutualnet_det.lab.comparison.claims import check_claims, claims_text

ROLES = {"mutual": "m", "us_net": "u", "independent": "i"}
WIDTHS, RESOLUTIONS = (0.25, 0.5, 0.75, 1.0), (160, 128, 64)


def make(changes=(), spread=0.5, spreads=(), seeds=()):
    """
    Mutual is 2 AP above US-Net at low, 0.1 above at the largest resolution. ``spreads`` and
    ``seeds``: of some methods.
    """
    means = {}
    for width in WIDTHS:
        for resolution in RESOLUTIONS:
            point = f"{width:.2f}x{resolution}"
            means["u", point] = 20.0
            means["m", point] = 20.1 if resolution == 160 else 22.0
    means["i", "1.00x160"] = 20.0
    means |= dict(changes)
    scores = [
        {
            "method": method,
            "point": point,
            "kind": "box",
            "mean": mean,
            "spread": dict(spreads).get(method, spread),
            "by_seed": dict.fromkeys(range(dict(seeds).get(method, 3)), mean),
        }
        for (method, point), mean in means.items()
        if mean is not None
    ]
    return check_claims({"scores": scores, "plan": {"seeds": [0, 1, 2]}}, ROLES)


def verdicts(*args, **kwargs):
    return [claim["holds"] for claim in make(*args, **kwargs)]


def test_all_hold():
    claims = make()
    assert [claim["holds"] for claim in claims] == [True, True, True]
    assert "4 of 4 widths" in claims[0]["detail"]
    assert "+2.0 at 0.25x64" in claims[0]["detail"]
    assert "+0.1 (spread 0.5) at 0.25x160" in claims[1]["detail"]
    assert claims[2]["detail"] == "+0.1 at 1.00x160: 20.1 ± 0.5 against 20.0 ± 0.5"


def test_three_widths_cannot_tell():
    assert verdicts({("u", f"0.50x{r}"): None for r in RESOLUTIONS}.items()) == [None, True, True]


def test_one_resolution_of_one_width_is_enough_to_fail():
    claims = make({("m", "0.50x128"): 19.0}.items())
    assert [claim["holds"] for claim in claims] == [False, True, True]
    assert "3 of 4 widths" in claims[0]["detail"] and "-1.0 at 0.50x128" in claims[0]["detail"]


def test_a_fifth_width_may_fail():
    more = {("u", "0.40x160"): 20, ("m", "0.40x160"): 20, ("u", "0.40x64"): 20}
    assert verdicts({**more, ("m", "0.40x64"): 19}.items()) == [True, True, True]


@pytest.mark.parametrize(("mean", "holds"), [(19.6, True), (19.4, False)])
def test_the_largest_resolution_may_be_lower_by_the_spread(mean, holds):
    assert verdicts({("m", "0.25x160"): mean}.items()) == [True, holds, True]


def test_instability_of_its_own_excuses_nothing():
    lower = {("m", "0.25x160"): 19.4}.items()
    assert verdicts(lower, spreads={"m": 5.0}) == [True, False, True]
    assert verdicts(lower, spreads={"u": 5.0}) == [True, True, True]


@pytest.mark.parametrize(
    ("method", "holds"),
    [("m", [None, None, None]), ("u", [None, None, True]), ("i", [True, True, None])],
)
def test_means_over_other_seeds_are_not_compared(method, holds):
    assert verdicts(seeds={method: 2}) == holds


def test_one_seed_has_no_spread_to_excuse_anything():
    claims = make({("m", "0.25x160"): 19.9}.items(), spread=None)
    assert [claim["holds"] for claim in claims] == [True, False, True]
    assert "-0.1 (one seed) at 0.25x160" in claims[1]["detail"]


def test_the_independent_network_is_to_be_reached():
    assert verdicts({("i", "1.00x160"): 20.2}.items()) == [True, True, False]


def test_without_scores_nothing_is_known():
    assert verdicts({("i", "1.00x160"): None}.items()) == [True, True, None]
    missing = {("u", f"{w:.2f}x{r}"): None for w in WIDTHS for r in RESOLUTIONS}
    assert verdicts(missing.items()) == [None, None, True]
    assert check_claims({"scores": [], "plan": {"seeds": [0]}}, ROLES) == []
    assert check_claims({"scores": [{"kind": "box"}]}, {}) == []


def test_a_plain_list():
    lines = claims_text(make({("i", "1.00x160"): 21.1}.items())).splitlines()
    assert lines[0].startswith("holds    box AP: mutual is above US-Net at every resolution below")
    assert lines[2].startswith("FAILS    box AP: mutual's full network")
    assert lines[2].endswith("-1.0 at 1.00x160: 20.1 ± 0.5 against 21.1 ± 0.5")
