"""The results of a plan's runs as one record: what ``comparison.json`` holds."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import logging
import multiprocessing
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_1samp

from ...config import flattened
from ...evaluation.results import Grid
from ...evaluation.scoring import KIND_OF, KINDS
from ...files import replacing
from ...slimmable import OperatingPoint
from .bootstrap import COMPARED, Bootstrap, resampled_accuracy
from .claims import check_claims
from .plan import Plan, Run, Training
from .runs import RunsError, expected_seconds, is_finished, runs_at_a_time, seconds_taken

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
IOU_TYPES = {kind: iou_type for iou_type, kind in KIND_OF.items()}
# Of an interval: 95 % of the resamples are in it.
TAIL = 2.5

Resampled = dict[str, np.ndarray]  # by "box 0.25x64", the AP of each resample


def collect(plan: Plan, num_processes: int) -> dict[str, Any]:
    """
    Collect the results of a plan's finished runs, as JSON.

    Args:
        num_processes: to resample with. What a run's resamples gave is kept in its folder.

    Returns:
        ``plan``: the YAML's content; ``data``: what was evaluated; ``pretraining``: config, steps
        and time of that of the backbone, None if there is none; ``hours`` that all of it took,
        None if nobody noted it; ``methods``; ``runs``: each with its config, steps, cost, device,
        time and every score; ``scores``: by method, point and kind, mean and spread (standard
        deviation, n - 1) over the seeds; ``differences``: of each method from the first, over the
        seeds that both have, with the interval that 95 % of the resamples of images are in, and
        ``p_value`` of a paired t-test over the seeds, None for one seed or without any spread;
        ``claims``, see :func:`~mutualnet_det.lab.comparison.claims.check_claims`.

    Raises:
        RunsError: if a run lacks its evaluation, or runs were evaluated on different images or
            objects.
    """
    finished = [run for run in plan.runs if is_finished(run)]
    grids = {run: _grid(run) for run in finished}
    data = _data(grids)
    resampled = _resample(finished, plan.resamples, num_processes)
    scores = _scores(plan, grids)
    record = {
        "schema": SCHEMA_VERSION,
        "name": plan.path.stem,
        "plan": plan.content,
        "data": data,
        "pretraining": plan.pretraining and _training(plan.pretraining),
        "hours": _hours([*filter(None, [plan.pretraining]), *finished]),
        "complete": len(finished) == len(plan.runs),
        "points": [str(point) for point in plan.points],
        "methods": [_method(method) for method in plan.methods],
        "runs": [_run(run, grids[run]) for run in finished],
        "scores": scores,
        "differences": _differences(plan, grids, resampled, scores),
    }
    record["claims"] = check_claims(record, plan.claims)
    return json.loads(json.dumps(record))


def _grid(run: Run) -> Grid:
    path = run.folder / "grid" / "grid.json"
    if not path.exists():
        raise _incomplete(run.folder, path)
    return Grid.load(path)


def _incomplete(folder: Path, path: Path) -> RunsError:
    return RunsError(
        f"{folder} holds a finished run without its {path.name}. If it was copied, copy all of it; "
        "else delete the folder and run this again."
    )


def _data(grids: dict[Run, Grid]) -> dict[str, Any]:
    if not grids:
        return {}
    (first, grid), *others = grids.items()
    for run, other in others:
        if other.run["identity"]["ground truth"] != grid.run["identity"]["ground truth"]:
            raise RunsError(
                f"{run.folder} and {first.folder} were evaluated on different ground truth, so "
                "their scores cannot be paired. Delete the folder of the one that is out of "
                "date, and run this again."
            )
        if other.run["versions"] != grid.run["versions"]:
            logger.warning(
                "%s was evaluated with %s, and %s with %s: differences may be due to that",
                *(run.folder, other.run["versions"], first.folder, grid.run["versions"]),
            )
    keys = ("dataset", "num_images", "num_objects")  # a classifier's images have no objects
    return {key: grid.run[key] for key in keys if key in grid.run}


def _method(method) -> dict[str, Any]:
    return {
        "name": method.name,
        "label": method.label,
        "study": method.study,
        "options": method.options,
        "networks": list(method.networks),
    }


def _training(training: Training) -> dict[str, Any]:
    return {
        "title": training.title,
        "folder": str(training.folder),
        "steps": training.steps,
        "seconds_per_step": _seconds_per_step(training),
        "config": flattened(training.cfg),
    }


def _hours(trainings: Sequence[Training]) -> float | None:
    """Add up the trainings; one that was interrupted took as long as those of other seeds."""
    noted = {run.title for run in trainings if is_finished(run) and seconds_taken(run)}
    if not trainings or noted != {run.title for run in trainings}:
        return None
    seconds = zip(trainings, expected_seconds(trainings), strict=True)
    return sum(taken / runs_at_a_time(run) for run, taken in seconds) / 3600


def _run(run: Run, grid: Grid) -> dict[str, Any]:
    return {
        **_training(run),
        "method": run.method.name,
        "network": run.network,
        "seed": run.seed,
        "gflops_per_step": run.gflops_per_step,
        "device": grid.run["device"],
        "versions": grid.run["versions"],
        "runs_at_a_time": runs_at_a_time(run),
        "points": {
            str(row.point): {
                "gflops": row.gflops,
                "detections_per_image": row.detections_per_image,
                **{
                    kind: {metric: scores[metric] for metric in KINDS[kind].metrics}
                    for kind in COMPARED
                    if (scores := row.scores.get(kind)) is not None
                },
            }
            for row in grid.rows
        },
    }


def _seconds_per_step(training: Training) -> float | None:
    """Median over what the metrics have on record; None for a run of a few steps, or elsewhere."""
    path = training.folder / "metrics.json"
    lines = path.read_text().splitlines() if path.exists() else []
    seconds = [record["time"] for record in map(json.loads, lines) if "time" in record]
    return statistics.median(seconds) if seconds else None


# Resampling --------------------------------------------------------------------------------------


def _resample(runs: Sequence[Run], resamples: int, num_processes: int) -> dict[Run, Resampled]:
    tasks = [(run.folder, resamples) for run in runs]
    missing = sum(_kept(*task) is None for task in tasks)
    if missing:
        logger.info("Resampling the images of %d runs, %d times each", missing, resamples)
    if num_processes == 1 or missing < 2:
        resampled = [_resample_run(task) for task in tasks]
    else:
        context = multiprocessing.get_context("spawn")
        with context.Pool(num_processes, torch.set_num_threads, (1,)) as pool:
            resampled = pool.map(_resample_run, tasks, chunksize=1)
    return dict(zip(runs, resampled, strict=True))


def _resample_run(task: tuple[Path, int]) -> Resampled:
    folder, resamples = task
    kept = _kept(folder, resamples)
    if kept is not None:
        return kept

    grid_folder = folder / "grid"

    def read(name: str) -> str:
        try:
            return (grid_folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise _incomplete(folder, grid_folder / name) from None

    @functools.cache
    def bootstrap() -> Bootstrap:
        return Bootstrap(json.loads(read("ground_truth.json")), resamples)

    def resample(kind: str, point: OperatingPoint) -> np.ndarray:
        if kind == "class":
            lines = csv.DictReader(io.StringIO(read(f"predictions/{point}.csv")))
            hits = [line["label"] == line["top5"].split()[0] for line in lines]
            return resampled_accuracy(hits, resamples)
        detections = read(f"detections/{point}.{IOU_TYPES[kind]}.json")
        return bootstrap().ap(json.loads(detections), IOU_TYPES[kind])

    resampled = {
        f"{kind} {row.point}": resample(kind, row.point)
        for row in Grid.load(grid_folder / "grid.json").rows
        for kind in COMPARED
        if kind in row.kinds
    }
    with replacing(folder / "resampled.npz", "wb") as file:
        # Its stub takes any name for that of an option.
        np.savez(file, source=_source(folder, resamples), **resampled)  # type: ignore[arg-type]
    return resampled


def _kept(folder: Path, resamples: int) -> Resampled | None:
    path = folder / "resampled.npz"
    if not path.exists():
        return None
    with np.load(path) as kept:
        if str(kept["source"]) != _source(folder, resamples):
            return None
        return {name: kept[name] for name in kept.files if name != "source"}


def _source(folder: Path, resamples: int) -> str:
    digest = hashlib.sha256((folder / "grid" / "grid.json").read_bytes()).hexdigest()
    return f"{digest} {resamples}"


# Over seeds --------------------------------------------------------------------------------------


def _scores(plan: Plan, grids: dict[Run, Grid]) -> list[dict[str, Any]]:
    scores = []
    for method in plan.methods:
        for point in plan.points:
            rows = {
                run.seed: row
                for run, grid in grids.items()
                if run.method is method
                for row in grid.rows
                if row.point == point
            }
            for kind in COMPARED:
                by_seed = {
                    str(seed): score
                    for seed, row in rows.items()
                    if kind in row.kinds and (score := row.score(kind)) is not None
                }
                if by_seed:
                    gflops = [row.gflops for row in rows.values()]
                    scores.append(
                        {
                            "method": method.name,
                            "point": str(point),
                            "kind": kind,
                            "gflops": statistics.mean(gflops),
                            **_over_seeds(by_seed),
                        }
                    )
    return scores


def _over_seeds(by_seed: dict[str, float]) -> dict[str, Any]:
    """Mean and spread; the spread of one seed is unknown."""
    values = list(by_seed.values())
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "spread": spread, "by_seed": by_seed}


def _differences(
    plan: Plan,
    grids: dict[Run, Grid],
    resampled: dict[Run, Resampled],
    scores: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Pairs share the seed, the images and the resamples of them."""
    reference = plan.methods[0].name
    by_key = {(s["method"], s["point"], s["kind"]): s for s in scores}
    arrays = {
        (run.method.name, name, str(run.seed)): values
        for run in grids
        for name, values in resampled[run].items()
    }
    differences = []
    for score in scores:
        name, point, kind = score["method"], score["point"], score["kind"]
        other = by_key.get((reference, point, kind))
        if name == reference or other is None:
            continue
        seeds = [seed for seed in score["by_seed"] if seed in other["by_seed"]]
        if not seeds:
            continue
        column = f"{kind} {point}"
        drawn = np.mean(
            [arrays[name, column, seed] - arrays[reference, column, seed] for seed in seeds], axis=0
        )
        low, high = np.nanpercentile(drawn, (TAIL, 100 - TAIL))
        by_seed = {seed: score["by_seed"][seed] - other["by_seed"][seed] for seed in seeds}
        differences.append(
            {
                "method": name,
                "reference": reference,
                "point": point,
                "kind": kind,
                **_over_seeds(by_seed),
                "low": float(low),
                "high": float(high),
                "p_value": _p_value(list(by_seed.values())),
            }
        )
    return differences


def _p_value(differences: Sequence[float]) -> float | None:
    """Two-sided, of a mean difference of 0; None where a t-test has no spread to go by."""
    if len(set(differences)) < 2:
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)
