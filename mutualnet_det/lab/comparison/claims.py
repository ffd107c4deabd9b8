"""The method's claims, held against the scores of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...evaluation.scoring import KINDS
from ...slimmable import OperatingPoint

# Widths for which mutual training must win below the largest resolution.
NUM_WIDTHS = 4

_Scores = dict[OperatingPoint, dict[str, Any]]


def check_claims(record: Mapping[str, Any], roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """
    Check what MutualNet claims on the mean scores over the seeds.

    Where one seed of a method is missing, nothing is said: means over different seeds are not to be
    compared.

    Args:
        record: of a comparison: its ``scores`` and ``plan``.
        roles: the methods that are "mutual", "us_net" and "independent"; without them there is
            nothing to check.

    Returns:
        for each kind of score, three claims with ``claim``, ``kind``, ``holds`` (None where
        scores are missing), ``detail``, which gives margins in percent, and what these are of:
        mutual training less ``against``, a method, at ``points``.
    """
    if not roles:
        return []
    claims = []
    kinds = dict.fromkeys(score["kind"] for score in record["scores"])
    for kind in kinds:
        mutual, us_net, independent = (
            {
                OperatingPoint.parse(score["point"]): score
                for score in record["scores"]
                if score["kind"] == kind
                and score["method"] == roles[role]
                and len(score["by_seed"]) == len(record["plan"]["seeds"])
            }
            for role in ("mutual", "us_net", "independent")
        )
        for claim, role, (holds, points, detail) in (
            (
                "mutual is above US-Net at every resolution below the largest, at "
                f"{NUM_WIDTHS} widths or more",
                "us_net",
                _above_below(mutual, us_net),
            ),
            (
                "mutual is not below US-Net at the largest resolution, within US-Net's spread over "
                "seeds",
                "us_net",
                _not_below(mutual, us_net),
            ),
            (
                "mutual's full network is at least as good as the independent one",
                "independent",
                _full(mutual, independent),
            ),
        ):
            claims.append(
                {
                    "claim": claim,
                    "kind": kind,
                    "holds": holds,
                    "detail": detail,
                    "against": roles[role],
                    "points": [str(point) for point in points],
                }
            )
    return claims


_Verdict = tuple[bool | None, list[OperatingPoint], str]


def _above_below(mutual: _Scores, us_net: _Scores) -> _Verdict:
    shared = sorted(mutual.keys() & us_net.keys())
    largest = max((point.resolution for point in shared), default=0)
    margins: dict[float, list[tuple[float, OperatingPoint]]] = {}
    for point in shared:
        if point.resolution < largest:
            margin = _margin(mutual, us_net, point)
            margins.setdefault(point.width, []).append((margin, point))
    if len(margins) < NUM_WIDTHS:
        return None, [], f"{len(margins)} widths have scores of both at two resolutions or more"
    points = [point for at_width in margins.values() for _, point in at_width]
    least = [min(at_width) for at_width in margins.values()]
    good = sum(margin > 0 for margin, _ in least)
    shown = ", ".join(f"{margin:+.1f} at {point}" for margin, point in least)
    detail = f"{good} of {len(least)} widths; least margin of each: {shown}"
    return good >= NUM_WIDTHS, points, detail


def _not_below(mutual: _Scores, us_net: _Scores) -> _Verdict:
    shared = sorted(mutual.keys() & us_net.keys())
    if not shared:
        return None, [], "no scores of both"
    largest = max(point.resolution for point in shared)
    points = [point for point in shared if point.resolution == largest]
    holds, shown = True, []
    for point in points:
        margin = _margin(mutual, us_net, point)
        # That of mutual training does not count: what is unstable would be excused by it.
        spread = us_net[point]["spread"]
        holds = holds and margin >= -(spread or 0.0)
        known = "one seed" if spread is None else f"spread {spread:.1f}"
        shown.append(f"{margin:+.1f} ({known}) at {point}")
    return holds, points, ", ".join(shown)


def _full(mutual: _Scores, independent: _Scores) -> _Verdict:
    point = max(mutual, key=lambda p: (p.width, p.resolution), default=None)
    if point is None or point not in independent:
        return None, [], f"no scores of both{f' at {point}' if point else ''}"
    margin = _margin(mutual, independent, point)
    values = [
        f"{scores[point]['mean']:.1f}" + plus_minus(scores[point]["spread"])
        for scores in (mutual, independent)
    ]
    return margin >= 0, [point], f"{margin:+.1f} at {point}: {values[0]} against {values[1]}"


def _margin(scores: _Scores, others: _Scores, point: OperatingPoint) -> float:
    return scores[point]["mean"] - others[point]["mean"]


def plus_minus(spread: float | None) -> str:
    """The text that follows a mean; the spread of one seed is unknown."""
    return "" if spread is None else f" ± {spread:.1f}"


def over_seeds(record: Mapping[str, Any]) -> str:
    """The caption of a comparison's scores."""
    if any(score["spread"] is not None for score in record["scores"]):
        return "mean ± standard deviation over seeds"
    return "one seed"


def claims_text(claims: list[dict[str, Any]]) -> str:
    """A line for each claim: whether it holds, and by how much."""
    verdicts = {True: "holds", False: "FAILS", None: "unknown"}
    return "\n".join(
        f"{verdicts[c['holds']]:<8} {KINDS[c['kind']].label}: {c['claim']}: {c['detail']}"
        for c in claims
    )
