"""
MutualTrainer: Detectron2's loop with the mutual training step in it.

One iteration (arXiv 1909.12978, algorithm 1): the full network learns from the ground truth; the
narrowest network and some of random width see the same images and learn, as
``MUTUALNET.LOSS_WEIGHTS`` say, from the ground truth and from the full network; the gradients add
up, over micro-batches too, and the optimiser steps once. ``MUTUALNET.METHOD`` says which of these
passes there are, and at which resolutions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, hooks
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm

from ..building import explaining_config
from ..calibration import calibrate_points
from ..checkpoint import FINAL, MutualCheckpointer, last_checkpoint, last_good_checkpoint
from ..config import ema_decay, full_point, grid_points, trained_widths
from ..data.loader import build_training_loader, explaining_worker_deaths
from ..data.upload import uploaded
from ..data.views import view_at
from ..distributed import (
    broadcast_weights,
    exchange_facts,
    from_first_process,
    reduce_gradients,
    sharing_errors,
    wait_for_first,
)
from ..modeling.build import build_training_network
from ..modeling.classifier import network_of
from ..precision import training_dtype
from ..seeding import stream_seed
from ..slimmable import Calibrations, OperatingPoint, at_width, gathered_gradients
from .average import MovingAverage
from .finite import SCALER_STEPS, SkippedSteps, gradient_problem
from .hooks import RefreshStatistics, SaveCheckpoint, StopOnSignal, TolerantWriter
from .loggers import build_loggers
from .losses import StepLosses
from .metrics import WRITE_PERIOD, MeasureSteps, build_writers
from .optimizer import build_optimizer, clip, resume_optimizer
from .periodic_evaluation import PeriodicEvaluation, TrainedEnough
from .sampling import FULL, TrainingPass, build_sampler
from .start import check_start, scaled
from .timing import StepTimer
from .watch import WatchSteps

logger = logging.getLogger(__name__)


class MutualTrainer(TrainerBase):
    """
    Trains a detector or a classifier of this project from a config.

    Everything random (operating points, order and augmentation of images, the heads' sampling) is a
    function of the seed and the iteration, so a resumed run goes on as if it had not stopped.

    Args:
        cfg: a checked config; ConfigError if its meta-architecture has no sub-networks to teach.

    Use it like Detectron2's DefaultTrainer: ``resume_or_load(resume)``, then ``train()``. For
    single steps call ``prepare(iteration)``, set ``iter`` and ``storage`` as Detectron2's loop
    does, and call ``run_step()``, or ``train_on(batch)`` with a batch of one's own. A subclass may
    override ``view``, which makes what a pass sees of a batch.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.cfg = cfg = scaled(cfg, comm.get_world_size())
        self.model = build_training_network(cfg)
        self.network = network_of(self.model)
        with explaining_config("the optimiser"):
            self.optimizer = build_optimizer(cfg, self.model)
            self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.calibrations = Calibrations(self.network)
        self.seed = cfg.SEED  # below 0 until prepare() draws one
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._folder = Path(cfg.OUTPUT_DIR)
        self._freezes = cfg.MUTUALNET.STATISTICS == "frozen"
        self._dtype = training_dtype(cfg)
        if cfg.SOLVER.AMP.ENABLED:
            logger.info("Mixed precision on %s: %s", self.model.device, self._dtype)
        # Of float16, small gradients would become 0; bfloat16 has the range of float32.
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._dtype is torch.float16)
        least = SCALER_STEPS if self._dtype is torch.float16 else 0
        self._skipped_steps = SkippedSteps(max(cfg.MUTUALNET.SKIPPED_STEPS, least))
        self._num_skipped = 0  # images
        self._average: MovingAverage | None = None
        self._start_average()
        self.checkpointer = MutualCheckpointer(self.network, cfg, cfg.OUTPUT_DIR, trainer=self)
        self.timer = StepTimer(self.model.device)
        self._save = SaveCheckpoint(cfg.SOLVER.CHECKPOINT_PERIOD)
        self._evaluation = PeriodicEvaluation(
            cfg.TEST.EVAL_PERIOD, self._save, cfg.MUTUALNET.PATIENCE
        )
        self._register_first_hooks()

    def _register_first_hooks(self) -> None:
        measure = MeasureSteps(
            self.timer,
            self.model.device,
            num_images=self.cfg.SOLVER.IMS_PER_BATCH,
            period=WRITE_PERIOD,
            pause_period=max(self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.TEST.EVAL_PERIOD),
        )
        self.register_hooks([WatchSteps(), hooks.IterationTimer(), measure, hooks.LRScheduler()])
        if self._freezes:
            period = self.cfg.MUTUALNET.CALIBRATION.REFRESH_PERIOD
            self.register_hooks([RefreshStatistics(period)])
        self.register_hooks([self._evaluation])

    def _register_last_hooks(self, stop_on_signal: StopOnSignal) -> None:
        with sharing_errors():
            loggers = (
                build_loggers(self.cfg, self.start_iter, WRITE_PERIOD)
                if comm.is_main_process()
                else []
            )
        if comm.is_main_process():
            writers = build_writers(self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter)
            writers = [TolerantWriter(writer) for writer in (*writers, *loggers)]
            self.register_hooks([hooks.PeriodicWriter(writers, period=WRITE_PERIOD)])
        # After the writers: a resume cuts what they wrote since, so they must not lag behind.
        self.register_hooks([self._save, stop_on_signal])

    def resume_or_load(self, resume: bool = False) -> None:
        """
        Continue from the last checkpoint in ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``.

        Args:
            resume: continue if there is a checkpoint.

        Raises:
            ConfigError: see :func:`check_start`.
            CheckpointError: if there are checkpoints, and none is as it was written.
        """
        with sharing_errors():
            check_start(self.cfg, resume)
        last = from_first_process(lambda: last_good_checkpoint(self._folder))
        with sharing_errors():
            if last:
                self.checkpointer.load(str(last))
                self.start_iter = self.iter + 1
            elif self.cfg.MODEL.WEIGHTS:
                self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])

    def train(self) -> None:
        """
        Train up to ``SOLVER.MAX_ITER``, or until ``MUTUALNET.PATIENCE`` ends; then calibrate the
        grid and save ``model_final.pth``.
        """
        with StopOnSignal(self._folder) as stop_on_signal:
            self._evaluation.make_up()
            if self._evaluation.is_enough:
                self.max_iter = self.start_iter
            if self.start_iter >= self.max_iter:
                done = f"iteration {self.start_iter} of {self.cfg.SOLVER.MAX_ITER}"
                logger.info("Training is complete: %s.", done)
            else:
                self.prepare(self.start_iter)
                self._register_last_hooks(stop_on_signal)
                with explaining_worker_deaths(), suppress(TrainedEnough):
                    super().train(self.start_iter, self.max_iter)
            self._evaluation.log_best()
            self.finish()

    def after_step(self) -> None:
        super().after_step()
        if self._evaluation.is_enough:
            self.iter += 1  # as after the last step: Detectron2's hooks are told next
            self.max_iter = self.iter
            raise TrainedEnough

    def finish(self) -> None:
        """
        Calibrate the grid and save ``model_final.pth``, unless that has been done.

        With a moving average of the weights, these are what it holds.
        """
        last = from_first_process(lambda: last_checkpoint(self._folder))
        if last is not None and last.stem == FINAL:
            return
        with self.averaged_weights():
            calibrations = self.calibrate(grid_points(self.cfg))
            # A checkpoint says which iteration was the last, also where MAX_ITER is lower now.
            self.iter = max(self.start_iter, self.max_iter) - 1
            self.checkpointer.save(FINAL, calibrations=calibrations.state_dict())
        wait_for_first()

    # The step -----------------------------------------------------------------------------------

    def prepare(self, start: int) -> None:
        """Make what :meth:`run_step` needs from iteration ``start`` on: data, points, weights."""
        if self.seed < 0:
            self.seed = comm.shared_random_seed()
        self._points = build_sampler(self.cfg, self.seed)
        self._batches = iter(build_training_loader(self.cfg, self.seed, start))
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        broadcast_weights(self.model)
        if start == 0:
            self._start_average()  # from the weights that all processes have now
        if self._freezes and not self.calibrations:
            self.refresh_statistics()

    def run_step(self) -> None:
        """Take the step of this iteration, on the next batch of the loader: :meth:`train_on`."""
        with self.timer("data"):
            batch = next(self._batches)
        self.train_on(batch)

    def train_on(self, batch: list[dict[str, Any]]) -> None:
        """
        Take the step of this iteration.

        Args:
            batch: this process's share of the images, from the training loader.

        Raises:
            FloatingPointError: naming the operating point whose loss is not finite.
        """
        self.optimizer.zero_grad()
        device = self._parameters[0].device
        if device.type != "cpu":
            with self.timer("resize"):
                batch = uploaded(batch, device)
        losses = StepLosses()
        passes, count = self._points(self.iter), self.cfg.MUTUALNET.MICRO_BATCHES
        for number in range(count):
            self._backpropagate(batch[number::count], passes, number, losses)
        skipped = [name for item in batch for name in item["skipped"]]
        with self.timer("reduce"):
            facts = exchange_facts(losses.values(), len(skipped), self._parameters)
            reduce_gradients(self._parameters, facts.used)
        self._write_skipped(skipped, facts.num_skipped)
        problem = losses.problem(facts.losses)
        if not problem:
            self.storage.put_scalars(**losses.metrics(facts.losses))
        with self.timer("optimizer"):
            self._update_weights(problem)

    def _backpropagate(
        self,
        batch: list[dict[str, Any]],
        passes: Iterable[TrainingPass],
        micro_batch: int,
        losses: StepLosses,
    ) -> None:
        """Add up the gradients of all passes of a micro-batch, and collect their losses."""
        # The batch's images are dealt out to the micro-batches of all processes, as they would be
        # to as many processes.
        share = comm.get_rank() + micro_batch * comm.get_world_size()
        teacher = None
        for number, training_pass in enumerate(passes):
            kind, point = training_pass
            role = "teacher" if kind == FULL else "student"
            # The heads sample proposals and anchors: from a stream of this pass alone.
            torch.manual_seed(stream_seed("heads", self.seed, self.iter, share, number))
            with self.timer("resize"):
                view = self.view(batch, point.resolution)
            with (
                self._at(training_pass),
                gathered_gradients(self.model),
                self.storage.name_scope(kind),
            ):
                with self.timer(f"{role}_forward"), self._autocast():
                    try:
                        if kind == FULL:
                            pass_losses, teacher = self.model.teach(view)
                        else:
                            pass_losses = self.model.study(view, teacher)
                    except FloatingPointError as error:  # Detectron2's RPN looks for itself
                        what = f"{error} at {training_pass}"
                        raise self._diverged(what, skippable=False) from error
                    loss = sum(pass_losses.values())
                    if kind != FULL:
                        loss = self.cfg.MUTUALNET.SUBNETWORK_WEIGHT * loss
                    loss = loss / self.cfg.MUTUALNET.MICRO_BATCHES
                # Before the next pass, so that one pass's activations are in memory at a time.
                with self.timer(f"{role}_backward"):
                    self._scaler.scale(loss).backward()
            losses.add(training_pass, pass_losses)

    def view(self, batch: list[dict[str, Any]], resolution: int) -> list[dict[str, Any]]:
        """Resize a batch for a pass: see :func:`mutualnet_det.data.views.view_at`."""
        return view_at(batch, resolution, self.cfg.INPUT.MAX_SIZE_TRAIN)

    def _at(self, training_pass: TrainingPass) -> AbstractContextManager:
        if self._freezes:
            return self.calibrations.at(training_pass.point, stale=True)
        return at_width(self.model, training_pass.point.width, track=training_pass.kind == FULL)

    def _autocast(self) -> AbstractContextManager:
        enabled = self._dtype is not torch.float32
        return torch.autocast(self.model.device.type, self._dtype, enabled=enabled)

    def _update_weights(self, problem: str) -> None:
        """
        Change the weights by the gradients, or leave the step out if something is not finite.

        Args:
            problem: what the losses have; empty if they are finite. The same in all processes.
        """
        self._scaler.unscale_(self.optimizer)
        norm = clip(self.cfg, self._parameters).item()
        problem = problem or gradient_problem(self.model, norm)
        if problem:
            try:
                self._skipped_steps.add(problem, self.model)
            except FloatingPointError as error:
                raise self._diverged(str(error)) from None
        else:
            self._skipped_steps.end_row()
            self.storage.put_scalar("gradient_norm", norm)
            self._scaler.step(self.optimizer)
            if self._average is not None:
                self._average.update()
        self._scaler.update()
        if total := self._skipped_steps.total:
            self.storage.put_scalar("skipped_steps", total, smoothing_hint=False)

    def _diverged(self, what: str, skippable: bool = True) -> FloatingPointError:
        return FloatingPointError(
            f"{what} in iteration {self.iter}. This iteration has not changed the weights; the "
            f"last good checkpoint is {self.checkpointer.get_checkpoint_file() or 'none'}. A lower "
            "SOLVER.BASE_LR or SOLVER.CLIP_GRADIENTS helps against divergence"
            + ("; MUTUALNET.SKIPPED_STEPS leaves out a step now and then." if skippable else ".")
        )

    def _write_skipped(self, skipped: list[str], num_skipped: int) -> None:
        """Log the images that this process and others left out (``num_skipped`` in all)."""
        if num_skipped:  # else there are no names to exchange
            for name in (name for part in comm.all_gather(skipped) for name in part):
                self._num_skipped += 1
                logger.warning("Skipped %s (%d so far)", name, self._num_skipped)
        if self._num_skipped:
            self.storage.put_scalar("skipped_images", self._num_skipped, smoothing_hint=False)

    # Statistics and averages --------------------------------------------------------------------

    def calibrate(self, points: Iterable[OperatingPoint]) -> Calibrations:
        """Calibrate ``points`` of the network with its weights as they are."""
        calibrations = Calibrations(self.network)
        calibrate_points(self.cfg, self.model, calibrations, points)
        return calibrations

    def refresh_statistics(self) -> None:
        """Calibrate anew every operating point that training on frozen statistics can draw."""
        self.calibrations.clear()
        node = self.cfg.MUTUALNET
        widths = sorted({p.width for p in grid_points(self.cfg)} | set(trained_widths(self.cfg)))
        points = [OperatingPoint(w, r) for w in widths for r in node.RESOLUTIONS]
        calibrate_points(self.cfg, self.model, self.calibrations, points)
        self.calibrations.copy_to_running(full_point(self.cfg))

    def averaged_weights(self) -> AbstractContextManager:
        """Give the network the moving average of its weights, if there is one, until the exit."""
        if self._average is None:
            return nullcontext()
        return self._average.in_force(self._calibrate_running)

    def _calibrate_running(self) -> None:
        """Make the running statistics those of the full network as it is now."""
        point = full_point(self.cfg)
        self.calibrate([point]).copy_to_running(point)

    def _start_average(self) -> None:
        """Average the weights from what they are now, if the config asks for it."""
        if decay := ema_decay(self.cfg):
            self._average = MovingAverage(self.network, decay)

    # The state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["seed"] = self.seed
        state["num_skipped"] = self._num_skipped
        state |= self._skipped_steps.state_dict()
        if self._scaler.is_enabled():
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
        resume_optimizer(self.cfg, self.optimizer, self.scheduler, state_dict["optimizer"])
        self.seed = state_dict["seed"]
        self._num_skipped = state_dict["num_skipped"]
        self._skipped_steps.load_state_dict(state_dict)
        if "scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["scaler"])
        if self._freezes and "frozen_statistics" in state_dict:
            self.calibrations.load_state_dict(state_dict["frozen_statistics"], stale=True)
        if self._average is not None:
            self._average.load_state_dict(state_dict["average"])
            self.network.load_state_dict(state_dict["weights"])
