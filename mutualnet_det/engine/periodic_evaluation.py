"""Evaluation of one operating point while a network trains."""

from __future__ import annotations

from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..config import eval_point
from ..distributed import from_first_process, wait_for_first
from ..evaluation import KINDS, evaluate_grid
from .hooks import SaveCheckpoint, going_on_without


class PeriodicEvaluation(HookBase):
    """
    Evaluate ``MUTUALNET.TEST_POINT`` periodically, and after the last step unless that has failed.

    The first process evaluates, into ``OUTPUT_DIR/eval/<iterations done>``, while the others wait.
    The metrics get the main metric of every kind there is, such as ``box/AP-1.00x160``, in percent:
    this hook comes before the writers.

    Args:
        period: in iterations; 0: never.
        save: the hook that saves checkpoints. One that is due is there before an evaluation, which
            takes long and may fail.
    """

    def __init__(self, period: int, save: SaveCheckpoint) -> None:
        self._period = period
        self._save = save
        self._made_up: dict[str, float] = {}  # scores, until there are metrics to take them

    def make_up(self) -> None:
        """Do the evaluation after the last step of the run before, if a stop has left it out."""
        done = self.trainer.start_iter
        if done > 0 and self._is_due(done):
            grid_file = self._folder(done) / "grid.json"
            if not from_first_process(grid_file.exists):
                self._made_up = self._evaluate(done)

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
        if self._is_due(done) and done == self.trainer.max_iter:
            self._put(self._evaluate(done))

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and (done % self._period == 0 or done >= self.trainer.max_iter)

    def _folder(self, done: int) -> Path:
        return Path(self.trainer.cfg.OUTPUT_DIR) / "eval" / f"{done:07d}"

    def _put(self, scores: dict[str, float]) -> None:
        self.trainer.storage.put_scalars(**scores, smoothing_hint=False)

    def _evaluate(self, done: int) -> dict[str, float]:
        """Scores of the weights as they are, by name of the metric; none in other processes."""
        cfg, model, folder = self.trainer.cfg, self.trainer.model, self._folder(done)
        point = eval_point(cfg)
        scores: dict[str, float] = {}
        if comm.is_main_process():
            # One of other weights must not stand for an evaluation that is cut short.
            (folder / "grid.json").unlink(missing_ok=True)
        with self.trainer.averaged_weights():
            calibrations = self.trainer.calibrate([point])
            if comm.is_main_process():
                with going_on_without("The evaluation"):
                    grid = evaluate_grid(cfg, model, calibrations, [point], str(folder))
                    (row,) = grid.rows
                    scores = {
                        f"{kind}/{KINDS[kind].metrics[0]}-{point}": row.score(kind)
                        for kind in row.kinds
                        if row.score(kind) is not None
                    }
        wait_for_first()
        return scores
