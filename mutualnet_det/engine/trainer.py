"""
MutualTrainer: Detectron2's loop with the mutual training step in it.

One iteration (arXiv 1909.12978, algorithm 1): the full network learns from the ground truth; the
narrowest network and some of random width see the same images and learn, as
``MUTUALNET.LOSS_WEIGHTS`` say, from the ground truth and from the full network; the gradients add
up and the optimiser steps once. ``MUTUALNET.METHOD`` says which of these passes there are, and at
which resolutions.
"""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm

from ..checkpoint import MutualCheckpointer, find_weights
from ..config import (
    LOSS_TERMS,
    ConfigError,
    full_point,
    grid_points,
    is_classification,
    test_point,
)
from ..data.loader import build_training_loader
from ..data.views import view_at
from ..evaluation import KINDS, evaluate_grid
from ..modeling.build import build_network
from ..modeling.classifier import network_of
from ..seeding import stream_seed
from ..slimmable import Calibrations, OperatingPoint, at_width
from .average import MovingAverage
from .calibration import calibrate_points
from .distributed import broadcast_weights, reduce_gradients
from .metrics import WRITE_PERIOD, build_writers
from .optimizer import build_optimizer
from .sampling import FULL, IndependentSampler, SandwichSampler, TrainingPass

logger = logging.getLogger(__name__)

# Name of the checkpoint that a finished training ends with.
FINAL = "model_final"


class MutualTrainer(TrainerBase):
    """
    Trains a detector or a classifier of this project from a config.

    Everything random (operating points, order and augmentation of images, the heads' sampling) is a
    function of the seed and the iteration, so a resumed run goes on as if it had not stopped.

    Args:
        cfg: a checked config; ConfigError if its meta-architecture has no sub-networks to teach.

    Use it like Detectron2's DefaultTrainer: ``resume_or_load(resume)``, then ``train()``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.model = build_network(cfg)
        if not hasattr(self.model, "teach"):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which teaches no "
                f"sub-networks; expected one of {', '.join(LOSS_TERMS)}."
            )
        self.model.train()
        self.network = network_of(self.model)
        self.optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.calibrations = Calibrations(self.network)
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._freezes = cfg.MUTUALNET.STATISTICS == "frozen"
        self._scaler = None
        if cfg.SOLVER.AMP.ENABLED:
            self._scaler = torch.cuda.amp.GradScaler()
        self._num_skipped = 0
        self._average: MovingAverage | None = None
        self._start_average()
        self.checkpointer = MutualCheckpointer(self.network, cfg, cfg.OUTPUT_DIR, trainer=self)
        self.register_hooks([hooks.IterationTimer(), hooks.LRScheduler()])
        if self._freezes:
            self.register_hooks([RefreshStatistics(cfg.MUTUALNET.CALIBRATION.REFRESH_PERIOD)])

    def resume_or_load(self, resume: bool = False) -> None:
        """
        Continue from the last checkpoint in ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``.

        Args:
            resume: continue if there is a checkpoint.

        Raises:
            ConfigError: see :func:`check_start`.
        """
        check_start(self.cfg, resume)
        if self.checkpointer.has_checkpoint():
            self.checkpointer.load(self.checkpointer.get_checkpoint_file())
            self.start_iter = self.iter + 1
        elif self.cfg.MODEL.WEIGHTS:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            self._start_average()

    def _start_average(self) -> None:
        """Average the weights from what they are now, if the config asks for it."""
        decay = self.cfg.MUTUALNET.CLASSIFICATION.EMA_DECAY
        if is_classification(self.cfg) and decay > 0:
            self._average = MovingAverage(self.network, decay)

    def train(self) -> None:
        """Train up to ``SOLVER.MAX_ITER``, then calibrate the grid and save ``model_final.pth``."""
        if self.start_iter >= self.max_iter:
            logger.info("Training is complete: iteration %d of %d.", self.start_iter, self.max_iter)
        else:
            self.prepare(self.start_iter)
            if self.cfg.TEST.EVAL_PERIOD > 0:
                self.register_hooks([hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self.evaluate)])
            if comm.is_main_process():
                writers = build_writers(self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter)
                self.register_hooks([hooks.PeriodicWriter(writers, period=WRITE_PERIOD)])
            # After the writers: a resume cuts what they wrote since, so they must not lag behind.
            self.register_hooks([SaveCheckpoint(self.cfg.SOLVER.CHECKPOINT_PERIOD)])
            super().train(self.start_iter, self.max_iter)
        if comm.is_main_process():
            self.finish()
        comm.synchronize()

    def finish(self) -> None:
        """
        Calibrate the grid and save ``model_final.pth``, unless that has been done.

        With a moving average of the weights, these are what it holds.
        """
        if os.path.basename(self.checkpointer.get_checkpoint_file()) == f"{FINAL}.pth":
            return
        with self._averaged():
            calibrations = Calibrations(self.network)
            calibrate_points(self.cfg, self.model, calibrations, grid_points(self.cfg))
            self.iter = self.max_iter - 1  # a checkpoint says which iteration was the last
            self.checkpointer.save(FINAL, calibrations=calibrations.state_dict())

    def evaluate(self) -> dict[str, dict]:
        """
        Evaluate ``MUTUALNET.TEST_POINT`` with the weights as they are, into ``OUTPUT_DIR/eval``.

        Returns:
            dict: the main metric of every kind there is, box AP first, in percent, in Detectron2's
            form.
        """
        point = test_point(self.cfg)
        found: dict[str, dict] = {}
        if comm.is_main_process():
            done = min(self.iter + 1, self.max_iter)
            folder = os.path.join(self.cfg.OUTPUT_DIR, "eval", f"{done:07d}")
            with self._averaged():
                calibrations = Calibrations(self.network)
                calibrate_points(self.cfg, self.model, calibrations, [point])
                (row,) = evaluate_grid(self.cfg, self.model, calibrations, [point], folder).rows
            found = {
                kind: {f"{KINDS[kind].metrics[0]}-{point}": row.score(kind)}
                for kind in row.kinds
                if row.score(kind) is not None
            }
        comm.synchronize()
        return found

    def _averaged(self) -> AbstractContextManager:
        if self._average is None:
            return nullcontext()
        return self._average.in_force(self.calibrate_full)

    def calibrate_full(self) -> None:
        """Make the running statistics those of the full network as it is now."""
        calibrations = Calibrations(self.network)
        point = full_point(self.cfg)
        calibrate_points(self.cfg, self.model, calibrations, [point])
        calibrations.copy_to_running(point)

    def prepare(self, start: int) -> None:
        """What :meth:`run_step` needs to go on from iteration ``start``: data, points, weights."""
        self._points = build_sampler(self.cfg, self.seed)
        self._batches = iter(build_training_loader(self.cfg, self.seed, start))
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        broadcast_weights(self.model)
        if self._freezes and not self.calibrations:
            self.refresh_statistics()

    def run_step(self) -> None:
        """One iteration; FloatingPointError names the operating point whose loss is not finite."""
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        passes = self._points(self.iter)
        self.optimizer.zero_grad()
        losses = []
        teacher = None
        for number, training_pass in enumerate(passes):
            kind, point = training_pass
            # The heads sample proposals and anchors: from a stream of this pass alone.
            torch.manual_seed(stream_seed("heads", self.seed, self.iter, comm.get_rank(), number))
            view = view_at(
                batch, point.resolution, self.cfg.INPUT.MAX_SIZE_TRAIN, self.model.device
            )
            with self._at(training_pass), self.storage.name_scope(kind):
                with self._autocast():
                    try:
                        if kind == FULL:
                            pass_losses, teacher = self.model.teach(view)
                        else:
                            pass_losses = self.model.study(view, teacher)
                    except FloatingPointError as error:  # Detectron2's RPN looks for itself
                        raise self._diverged(str(error), training_pass) from error
                    loss = sum(pass_losses.values())
                # Before the next pass, so that one pass's activations are in memory at a time.
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()
            losses.append({name: value.detach() for name, value in pass_losses.items()})

        self._write_losses(passes, losses)
        self._write_data(batch, data_time)
        reduce_gradients(self._parameters)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.unscale_(self.optimizer)
            self._scaler.step(self.optimizer)
            self._scaler.update()
        if self._average is not None:
            self._average.update()

    def _at(self, training_pass: TrainingPass) -> AbstractContextManager:
        if self._freezes:
            return self.calibrations.at(training_pass.point, stale=True)
        return at_width(self.model, training_pass.point.width, track=training_pass.kind == FULL)

    def _autocast(self) -> AbstractContextManager:
        return nullcontext() if self._scaler is None else torch.autocast("cuda", torch.float16)

    def _diverged(self, what: str, training_pass: TrainingPass) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at operating point {training_pass.point} ({training_pass.kind}) in iteration "
            f"{self.iter}. This iteration has not changed the weights; the last good checkpoint is "
            f"{self.checkpointer.get_checkpoint_file() or 'none'}. A lower SOLVER.BASE_LR or "
            "SOLVER.CLIP_GRADIENTS helps against divergence."
        )

    def _write_losses(
        self, passes: list[TrainingPass], losses: list[dict[str, torch.Tensor]]
    ) -> None:
        """Losses by kind of operating point, averaged over its passes and over all processes."""
        names = [(number, name) for number, found in enumerate(losses) for name in found]
        values = torch.stack([losses[number][name].float() for number, name in names]).tolist()
        by_kind: dict[str, list[float]] = {}
        for (number, name), value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise self._diverged(f"{name} is {value}", passes[number])
            by_kind.setdefault(f"{passes[number].kind}/{name}", []).append(value)
        metrics = {name: sum(found) / len(found) for name, found in by_kind.items()}
        for kind in {kind for kind, _ in passes}:
            metrics[f"{kind}/total_loss"] = sum(
                value for name, value in metrics.items() if name.startswith(f"{kind}/")
            )
        gathered = comm.gather(metrics)
        if comm.is_main_process():
            for name in metrics:
                found = [part[name] for part in gathered if name in part]
                self.storage.put_scalar(name, sum(found) / len(found))

    def _write_data(self, batch: list[dict[str, Any]], data_time: float) -> None:
        """How long the batch took to come, and the images that all processes left out."""
        gathered = comm.gather([name for item in batch for name in item["skipped"]])
        for name in (name for part in gathered for name in part):
            self._num_skipped += 1
            logger.warning("Skipped %s (%d so far)", name, self._num_skipped)
        self.storage.put_scalar("data_time", data_time)
        if self._num_skipped:
            self.storage.put_scalar("skipped_images", self._num_skipped, smoothing_hint=False)

    def refresh_statistics(self) -> None:
        """Calibrate anew every operating point that training on frozen statistics can draw."""
        self.calibrations.clear()
        node = self.cfg.MUTUALNET
        widths = sorted({p.width for p in grid_points(self.cfg)} | set(node.WIDTH_RANGE))
        points = [OperatingPoint(w, r) for w in widths for r in node.RESOLUTIONS]
        calibrate_points(self.cfg, self.model, self.calibrations, points)
        self.calibrations.copy_to_running(full_point(self.cfg))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["seed"] = self.seed
        state["num_skipped"] = self._num_skipped
        if self._scaler is not None:
            state["scaler"] = self._scaler.state_dict()
        if self._freezes:
            state["frozen_statistics"] = self.calibrations.state_dict()
        if self._average is not None:
            state["average"] = self._average.state_dict()
            # What a training goes on with, where the checkpoint's own weights are the average.
            state["weights"] = self._average.trained_weights()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.seed = state_dict["seed"]
        self._num_skipped = state_dict["num_skipped"]
        if self._scaler is not None and "scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["scaler"])
        if self._freezes and "frozen_statistics" in state_dict:
            self.calibrations.load_state_dict(state_dict["frozen_statistics"], stale=True)
        if self._average is not None:
            self._average.load_state_dict(state_dict["average"])
            self.network.load_state_dict(state_dict["weights"])


def check_start(cfg: CfgNode, resume: bool) -> None:
    """
    Check what a run starts from, before anything is loaded or written.

    Raises:
        ConfigError: if a fresh run would overwrite checkpoints or freeze random weights, or if
            ``MODEL.WEIGHTS`` is no file.
    """
    weights = cfg.MODEL.WEIGHTS
    tag = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if os.path.isfile(tag):
        if not resume:
            raise ConfigError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds the checkpoint {find_weights(cfg, True)} of an "
                "earlier run. Add --resume to continue it, or set another OUTPUT_DIR."
            )
    elif weights and "://" not in weights and not os.path.isfile(weights):
        raise ConfigError(f"MODEL.WEIGHTS is {weights!r}, and there is no such file.")
    elif not weights and cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT} and MODEL.WEIGHTS is "
            "empty: stages of random weights would be frozen. Set MODEL.WEIGHTS to a pretrained "
            "backbone, or MODEL.BACKBONE.FREEZE_AT 0."
        )


def build_sampler(cfg: CfgNode, seed: int) -> SandwichSampler | IndependentSampler:
    """The sampler of operating points that ``MUTUALNET.METHOD`` asks for."""
    node = cfg.MUTUALNET
    if node.METHOD == "independent":
        return IndependentSampler(*full_point(cfg))
    widths = ()
    if node.STATISTICS == "frozen":
        widths = sorted({point.width for point in grid_points(cfg)})
    return SandwichSampler(
        node.METHOD, node.WIDTH_RANGE, node.RESOLUTIONS, node.NUM_RANDOM, seed, widths
    )


class SaveCheckpoint(HookBase):
    """Save every ``period`` iterations, and after the last one."""

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self.trainer.checkpointer.save(f"model_{self.trainer.iter:07d}")


class RefreshStatistics(HookBase):
    """Recompute frozen statistics every ``period`` iterations."""

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 and done < self.trainer.max_iter:
            self.trainer.refresh_statistics()
