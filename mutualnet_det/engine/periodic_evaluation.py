"""Evaluation of a few operating points while a network trains, and the best of its weights."""

from __future__ import annotations

import logging
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint import BEST
from ..config import eval_points
from ..distributed import from_first_process, wait_for_first
from ..evaluation import KINDS, Grid, evaluate_grid
from ..evaluation.results import GridError
from ..slimmable import Calibrations
from .best import Best
from .hooks import SaveCheckpoint, going_on_without

logger = logging.getLogger(__name__)


class TrainedEnough(BaseException):
    """Training ends before its last iteration. No error: Detectron2 would log one."""


class PeriodicEvaluation(HookBase):
    """
    Evaluate ``MUTUALNET.EVAL_POINTS`` periodically, and after the last step unless that has failed.

    The first process evaluates, into ``OUTPUT_DIR/eval/<iterations done>``, while the others wait.
    The metrics get the main metric of every kind there is, such as ``box/AP-1.00x160``, in percent:
    this hook comes before the writers. Of several points they get the mean too, ``box/AP-mean``.
    The mean of the first kind decides which weights are the best, and kept as ``model_best.pth``.

    Args:
        period: in iterations; 0: never.
        save: the hook that saves checkpoints. One that is due is there before an evaluation, which
            takes long and may fail.
        patience: evaluations in a row without a better one, after which :attr:`is_enough`; 0:
            never.
    """

    def __init__(self, period: int, save: SaveCheckpoint, patience: int = 0) -> None:
        self._period = period
        self._save = save
        self._patience = patience
        self._best = Best()
        self._made_up: dict[str, float] = {}  # scores, until there are metrics to take them

    @property
    def is_enough(self) -> bool:
        """Whether training should end, since it has not become better for long enough."""
        return 0 < self._patience <= self._best.num_worse

    def make_up(self) -> None:
        """
        Do the evaluation after the last step of the run before, if a stop has left it out.

        The checkpoint of that step was saved before the evaluation and does not know of it; what is
        on disk of one that was finished tells its scores.
        """
        done = self.trainer.start_iter
        if done > 0 and self._is_due(done):
            grid = from_first_process(lambda: self._load(done))
            if grid is None:
                self._made_up = self._evaluate(done)
            elif self._best.evaluated != done:
                self._evaluate(done, grid)

    def log_best(self) -> None:
        """Log which evaluation was the best, if there were any."""
        best = self._best
        if best.score is not None:
            logger.info(
                "The best evaluation (%.1f) was after %d iterations; %s.pth has its weights.%s",
                *(best.score, best.iterations, BEST),
                f" No later one of {best.num_worse} was better: the end." if self.is_enough else "",
            )

    def before_train(self) -> None:
        self._put(self._made_up)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._is_due(done) and done < self.trainer.max_iter:
            self._save.after_step()
            self._put(self._evaluate(done))

    def after_train(self) -> None:
        done = self.trainer.iter
        # Also called after an error or a stop, when fewer steps are done.
        is_last = done == self.trainer.max_iter and done != self._best.evaluated
        if self._is_due(done) and is_last:
            self._put(self._evaluate(done))

    def state_dict(self) -> dict[str, Any]:
        return {**asdict(self._best), "points": self._points()} if self._best.evaluated else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        points = state.pop("points")
        if points == self._points():
            self._best = Best(**state)
        else:
            logger.warning(
                "The best score so far is that of %s, which is no longer what is evaluated: the "
                "next evaluation counts as the first one.",
                ", ".join(points),
            )

    def _points(self) -> list[str]:
        return [str(point) for point in eval_points(self.trainer.cfg)]

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and (done % self._period == 0 or done >= self.trainer.max_iter)

    def _folder(self, done: int) -> Path:
        return Path(self.trainer.cfg.OUTPUT_DIR) / "eval" / f"{done:07d}"

    def _load(self, done: int) -> Grid | None:
        """Read what a finished evaluation has left on disk, if it is there and of these points."""
        try:
            grid = Grid.load(self._folder(done) / "grid.json")
        except (GridError, OSError):
            return None
        return grid if [row.point for row in grid.rows] == eval_points(self.trainer.cfg) else None

    def _put(self, scores: dict[str, float]) -> None:
        self.trainer.storage.put_scalars(**scores, smoothing_hint=False)

    def _evaluate(self, done: int, grid: Grid | None = None) -> dict[str, float]:
        """
        Evaluate the weights as they are, and keep them if they are the best.

        Args:
            done: iterations.
            grid: of an earlier evaluation of these weights, instead of another one.

        Returns:
            the scores, by name of the metric; none if the evaluation could not be written.
        """
        cfg, model, folder = self.trainer.cfg, self.trainer.model, self._folder(done)
        points = eval_points(cfg)
        if grid is None and comm.is_main_process():
            # One of other weights must not stand for an evaluation that is cut short.
            (folder / "grid.json").unlink(missing_ok=True)
        with self.trainer.averaged_weights():
            calibrations = self.trainer.calibrate(points)
            if grid is None and comm.is_main_process():
                with going_on_without("The evaluation"):
                    grid = evaluate_grid(cfg, model, calibrations, points, str(folder))
            wait_for_first()
            # All processes end together when it is enough.
            scores, mean = comm.all_gather(({}, None) if grid is None else _scores(grid))[0]
            if mean is not None and self._best.take(mean, done):
                self._keep(mean, done, calibrations)
        return scores

    def _keep(self, score: float, done: int, calibrations: Calibrations) -> None:
        best = {"score": score, "iterations": done, "points": self._points()}
        with going_on_without(f"{BEST}.pth"):
            self.trainer.checkpointer.save(
                BEST, goes_on=False, calibrations=calibrations.state_dict(), best=best
            )


def _scores(grid: Grid) -> tuple[dict[str, float], float | None]:
    """
    Read the main metric of every kind at every point, and over several points their mean.

    Returns:
        them, by name; and the mean of the kind that decides, None if it has none.
    """
    scores: dict[str, float] = {}
    means: list[float | None] = []
    for kind in grid.kinds:
        name = f"{kind}/{KINDS[kind].metrics[0]}"
        known = [(row.point, score) for row in grid.rows if (score := row.score(kind)) is not None]
        scores |= {f"{name}-{point}": score for point, score in known}
        mean = statistics.fmean(score for _, score in known) if known else None
        means.append(mean)
        if mean is not None and len(known) > 1:
            scores[f"{name}-mean"] = mean
    return scores, means[0]
