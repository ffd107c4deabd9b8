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
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, TrainerBase, hooks
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm

from ..calibration import calibrate_points
from ..checkpoint import (
    FINAL,
    MutualCheckpointer,
    checkpoints,
    last_checkpoint,
    last_good_checkpoint,
)
from ..config import (
    ALONE,
    LOSS_TERMS,
    ConfigError,
    eval_point,
    full_point,
    grid_points,
    trained_widths,
)
from ..data.loader import build_training_loader, explaining_worker_deaths
from ..data.views import view_at
from ..distributed import (
    broadcast_weights,
    exchange_facts,
    reduce_gradients,
    together,
    wait_for_first,
)
from ..evaluation import KINDS, evaluate_grid
from ..family import Family, family
from ..modeling.backbones import SlimmableBackbone
from ..modeling.build import build_network
from ..modeling.classifier import network_of
from ..seeding import stream_seed
from ..slimmable import (
    Calibrations,
    OperatingPoint,
    at_width,
    gathered_gradients,
    share_statistics,
)
from .average import MovingAverage
from .finite import SCALER_STEPS, SkippedSteps, not_finite
from .hooks import (
    Evaluate,
    PutScores,
    RefreshStatistics,
    SaveCheckpoint,
    StopOnSignal,
    TolerantWriter,
    outlived,
)
from .metrics import WRITE_PERIOD, MeasureSteps, build_writers
from .optimizer import build_optimizer, clip
from .sampling import FULL, IndependentSampler, SandwichSampler, TrainingPass
from .timing import StepTimer

logger = logging.getLogger(__name__)


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
        for module in self.model.modules():
            if isinstance(module, SlimmableBackbone):
                module.recomputes = cfg.MUTUALNET.RECOMPUTE_ACTIVATIONS
        if comm.get_world_size() > 1 and cfg.MUTUALNET.SYNC_STATISTICS:
            share_statistics(self.model)
        self.network = network_of(self.model)
        self.optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.calibrations = Calibrations(self.network)
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self._folder = Path(cfg.OUTPUT_DIR)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._freezes = cfg.MUTUALNET.STATISTICS == "frozen"
        self._dtype = getattr(torch, cfg.MUTUALNET.AMP_DTYPE) if cfg.SOLVER.AMP.ENABLED else None
        # Of float16, small gradients would become 0; bfloat16 has the range of float32.
        self._scaler = torch.amp.GradScaler("cuda") if self._dtype is torch.float16 else None
        self._num_skipped = 0
        least = 0 if self._scaler is None else SCALER_STEPS
        self._skipped_steps = SkippedSteps(max(cfg.MUTUALNET.SKIPPED_STEPS, least))
        self._average: MovingAverage | None = None
        self._start_average()
        self.checkpointer = MutualCheckpointer(self.network, cfg, cfg.OUTPUT_DIR, trainer=self)
        self.timer = StepTimer(self.model.device)
        measure = MeasureSteps(
            self.timer,
            self.model.device,
            num_images=cfg.SOLVER.IMS_PER_BATCH,
            period=WRITE_PERIOD,
            pause_period=max(cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD),
        )
        self.register_hooks([hooks.IterationTimer(), measure, hooks.LRScheduler()])
        if self._freezes:
            self.register_hooks([RefreshStatistics(cfg.MUTUALNET.CALIBRATION.REFRESH_PERIOD)])

    def resume_or_load(self, resume: bool = False) -> None:
        """
        Continue from the last checkpoint in ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``.

        Args:
            resume: continue if there is a checkpoint.

        Raises:
            ConfigError: see :func:`check_start`.
            CheckpointError: if there are checkpoints, and none is as it was written.
        """
        check_start(self.cfg, resume)
        if last := together(self._find_last)[0]:
            self.checkpointer.load(last)
            self.start_iter = self.iter + 1
        elif self.cfg.MODEL.WEIGHTS:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])

    def _find_last(self) -> str:
        found = last_good_checkpoint(self._folder) if comm.is_main_process() else None
        return str(found or "")

    def _start_average(self) -> None:
        """Average the weights from what they are now, if the config asks for it."""
        decay = self.cfg.MUTUALNET.CLASSIFICATION.EMA_DECAY
        if family(self.cfg) is Family.CLASSIFIER and decay > 0:
            self._average = MovingAverage(self.network, decay)

    def train(self) -> None:
        """Train up to ``SOLVER.MAX_ITER``, then calibrate the grid and save ``model_final.pth``."""
        with StopOnSignal() as stop_on_signal:
            scores = self._make_up_evaluation()
            if self.start_iter >= self.max_iter:
                done = f"iteration {self.start_iter} of {self.max_iter}"
                logger.info("Training is complete: %s.", done)
            else:
                self.prepare(self.start_iter)
                self.register_hooks([PutScores(scores)])
                self._register_late_hooks()
                self.register_hooks([stop_on_signal])
                with explaining_worker_deaths():
                    super().train(self.start_iter, self.max_iter)
            self.finish()

    def _register_late_hooks(self) -> None:
        """Those that need to know from where the training goes on."""
        save = SaveCheckpoint(self.cfg.SOLVER.CHECKPOINT_PERIOD)
        if self.cfg.TEST.EVAL_PERIOD > 0:
            self.register_hooks([Evaluate(self.cfg.TEST.EVAL_PERIOD, self.evaluate, save)])
        if comm.is_main_process():
            writers = build_writers(self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter)
            writers = [TolerantWriter(writer) for writer in writers]
            self.register_hooks([hooks.PeriodicWriter(writers, period=WRITE_PERIOD)])
        # After the writers: a resume cuts what they wrote since, so they must not lag behind.
        self.register_hooks([save])

    def finish(self) -> None:
        """
        Calibrate the grid and save ``model_final.pth``, unless that has been done.

        With a moving average of the weights, these are what it holds.
        """
        if together(self._is_finished)[0]:
            return
        with self._averaged():
            calibrations = Calibrations(self.network)
            calibrate_points(self.cfg, self.model, calibrations, grid_points(self.cfg))
            # A checkpoint says which iteration was the last, also where MAX_ITER is lower now.
            self.iter = max(self.start_iter, self.max_iter) - 1
            self.checkpointer.save(FINAL, calibrations=calibrations.state_dict())
        wait_for_first()

    def _is_finished(self) -> bool:
        last = last_checkpoint(self._folder) if comm.is_main_process() else None
        return last is not None and last.stem == FINAL

    def evaluate(self) -> dict[str, dict]:
        """
        Evaluate ``MUTUALNET.TEST_POINT`` with the weights as they are, into ``OUTPUT_DIR/eval``:
        in the first process, while the others wait.

        Returns:
            dict: in the first process, the main metric of every kind there is, box AP first, in
            percent, in Detectron2's form.
        """
        point = eval_point(self.cfg)
        found: dict[str, dict] = {}
        # After the last step, Detectron2 has counted one more.
        folder = self._evaluation_folder(min(self.iter + 1, max(self.start_iter, self.max_iter)))
        if comm.is_main_process():
            # Of other weights, if it is there: it must not stand for one that is cut short.
            (folder / "grid.json").unlink(missing_ok=True)
        with self._averaged():
            calibrations = Calibrations(self.network)
            calibrate_points(self.cfg, self.model, calibrations, [point])
            if comm.is_main_process():
                with outlived("The evaluation"):
                    grid = evaluate_grid(self.cfg, self.model, calibrations, [point], str(folder))
                    (row,) = grid.rows
                    found = {
                        kind: {f"{KINDS[kind].metrics[0]}-{point}": row.score(kind)}
                        for kind in row.kinds
                        if row.score(kind) is not None
                    }
        wait_for_first()
        return found

    def _evaluation_folder(self, done: int) -> Path:
        return self._folder / "eval" / f"{done:07d}"

    def _make_up_evaluation(self) -> dict[str, dict]:
        """
        Do the evaluation after the last step that was taken, if a stop has left it out; what it
        finds is as of :meth:`evaluate`, nothing if it was not left out.
        """
        period, done = self.cfg.TEST.EVAL_PERIOD, self.start_iter
        if period <= 0 or done == 0 or (done % period and done < self.max_iter):
            return {}
        path = self._evaluation_folder(done) / "grid.json"
        if together(lambda: comm.is_main_process() and path.exists())[0]:
            return {}
        return self.evaluate()

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
        if start == 0:
            self._start_average()  # from the weights that all processes have now
        if self._freezes and not self.calibrations:
            self.refresh_statistics()

    def feed(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        """Take the batches of the next steps from ``batches``, this rank's share of each."""
        self._batches = batches

    def view(self, batch: list[dict[str, Any]], resolution: int) -> list[dict[str, Any]]:
        """What a pass sees of a batch: see :func:`mutualnet_det.data.views.view_at`."""
        return view_at(batch, resolution, self.cfg.INPUT.MAX_SIZE_TRAIN, self.model.device)

    def run_step(self) -> None:
        """One iteration; FloatingPointError names the operating point whose loss is not finite."""
        with self.timer("data"):
            batch = next(self._batches)
        passes = self._points(self.iter)
        self.optimizer.zero_grad()
        losses = self._backpropagate(batch, passes)

        names = [(number, name) for number, found in enumerate(losses) for name in found]
        values = torch.stack([losses[number][name].float() for number, name in names])
        skipped = [name for item in batch for name in item["skipped"]]
        with self.timer("reduce"):
            facts = exchange_facts(values, len(skipped), self._parameters)
        problem = self._write_losses(passes, names, facts.losses)
        self._write_skipped(skipped, facts.num_skipped)
        with self.timer("reduce"):
            reduce_gradients(self._parameters, facts.used)
        with self.timer("optimizer"):
            self._update_weights(problem)

    def _backpropagate(
        self, batch: list[dict[str, Any]], passes: list[TrainingPass]
    ) -> list[dict[str, torch.Tensor]]:
        """Add up the gradients of all passes; the losses of each, by name."""
        losses = []
        teacher = None
        for number, training_pass in enumerate(passes):
            kind, point = training_pass
            role = "teacher" if kind == FULL else "student"
            # The heads sample proposals and anchors: from a stream of this pass alone.
            torch.manual_seed(stream_seed("heads", self.seed, self.iter, comm.get_rank(), number))
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
                        what = _at_point(str(error), training_pass)
                        raise self._diverged(what, skippable=False) from error
                    loss = sum(pass_losses.values())
                    if kind != FULL:
                        loss = self.cfg.MUTUALNET.SUBNETWORK_WEIGHT * loss
                # Before the next pass, so that one pass's activations are in memory at a time.
                with self.timer(f"{role}_backward"):
                    (loss if self._scaler is None else self._scaler.scale(loss)).backward()
            losses.append({name: value.detach() for name, value in pass_losses.items()})
        return losses

    def _update_weights(self, problem: str) -> None:
        """
        Take the step. Left out, as often as ``MUTUALNET.SKIPPED_STEPS`` allows, is one with a
        problem in the losses or in the gradient; all processes have the same.
        """
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        norm = clip(self.cfg, self._parameters).item()
        if not problem and not math.isfinite(norm):
            gradients = ((name, p.grad) for name, p in self.model.named_parameters())
            problem = f"The gradient of {not_finite(gradients) or 'all together'} is not finite"
        if problem:
            try:
                self._skipped_steps.add(problem, self.model)
            except FloatingPointError as error:
                raise self._diverged(str(error)) from None
        else:
            self._take_step(norm)
        if self._scaler is not None:
            self._scaler.update()
        if total := self._skipped_steps.total:
            self.storage.put_scalar("skipped_steps", total, smoothing_hint=False)

    def _take_step(self, norm: float) -> None:
        self._skipped_steps.end_row()
        self.storage.put_scalar("gradient_norm", norm)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
        if self._average is not None:
            self._average.update()

    def _at(self, training_pass: TrainingPass) -> AbstractContextManager:
        if self._freezes:
            return self.calibrations.at(training_pass.point, stale=True)
        return at_width(self.model, training_pass.point.width, track=training_pass.kind == FULL)

    def _autocast(self) -> AbstractContextManager:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, self._dtype)

    def _diverged(self, what: str, skippable: bool = True) -> FloatingPointError:
        return FloatingPointError(
            f"{what} in iteration {self.iter}. This iteration has not changed the weights; the "
            f"last good checkpoint is {self.checkpointer.get_checkpoint_file() or 'none'}. A lower "
            "SOLVER.BASE_LR or SOLVER.CLIP_GRADIENTS helps against divergence"
            + ("; MUTUALNET.SKIPPED_STEPS leaves out a step now and then." if skippable else ".")
        )

    def _write_losses(
        self, passes: list[TrainingPass], names: list[tuple[int, str]], values: list[float]
    ) -> str:
        """
        Losses by kind of operating point, averaged over its passes.

        Args:
            names: of each of the values, the pass's number and the loss's name.

        Returns:
            which loss is not finite, and where, if one is. Nothing is written then.
        """
        by_kind: dict[str, list[float]] = {}
        for (number, name), value in zip(names, values, strict=True):
            if not math.isfinite(value):
                return _at_point(f"{name} is {value}", passes[number])
            by_kind.setdefault(f"{passes[number].kind}/{name}", []).append(value)
        metrics = {name: sum(found) / len(found) for name, found in by_kind.items()}
        for kind in {kind for kind, _ in passes}:
            metrics[f"{kind}/total_loss"] = sum(
                value for name, value in metrics.items() if name.startswith(f"{kind}/")
            )
        for name, value in metrics.items():
            self.storage.put_scalar(name, value)
        return ""

    def _write_skipped(self, skipped: list[str], num_skipped: int) -> None:
        """The images left out: here, and by all processes."""
        if num_skipped:  # else there are no names to exchange
            for name in (name for part in comm.all_gather(skipped) for name in part):
                self._num_skipped += 1
                logger.warning("Skipped %s (%d so far)", name, self._num_skipped)
        if self._num_skipped:
            self.storage.put_scalar("skipped_images", self._num_skipped, smoothing_hint=False)

    def refresh_statistics(self) -> None:
        """Calibrate anew every operating point that training on frozen statistics can draw."""
        self.calibrations.clear()
        node = self.cfg.MUTUALNET
        widths = sorted({p.width for p in grid_points(self.cfg)} | set(trained_widths(self.cfg)))
        points = [OperatingPoint(w, r) for w in widths for r in node.RESOLUTIONS]
        calibrate_points(self.cfg, self.model, self.calibrations, points)
        self.calibrations.copy_to_running(full_point(self.cfg))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["seed"] = self.seed
        state["num_skipped"] = self._num_skipped
        state["skipped_steps"] = self._skipped_steps.total
        state["skipped_in_a_row"] = self._skipped_steps.in_a_row
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
        (found, *_), (own, *_) = (
            state_dict["optimizer"]["param_groups"],
            self.optimizer.param_groups,
        )
        if ("betas" in found) != ("betas" in own):  # torch would not notice
            raise ValueError(f"SOLVER.OPTIMIZER is now {self.cfg.SOLVER.OPTIMIZER!r}")
        settings = [{**group, "params": None} for group in self.optimizer.param_groups]
        sizes = [len(group["params"]) for group in state_dict["optimizer"]["param_groups"]]
        if sizes != [len(group["params"]) for group in self.optimizer.param_groups]:
            raise ValueError(
                "SOLVER.WEIGHT_DECAY, WEIGHT_DECAY_NORM, WEIGHT_DECAY_BIAS and BIAS_LR_FACTOR now "
                "give rates and decays to other groups of weights"
            )
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._keep_settings(settings)
        self.seed = state_dict["seed"]
        self._num_skipped = state_dict["num_skipped"]
        self._skipped_steps.total = state_dict.get("skipped_steps", 0)
        self._skipped_steps.in_a_row = state_dict.get("skipped_in_a_row", 0)
        if self._scaler is not None and "scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["scaler"])
        if self._freezes and "frozen_statistics" in state_dict:
            self.calibrations.load_state_dict(state_dict["frozen_statistics"], stale=True)
        if self._average is not None:
            self._average.load_state_dict(state_dict["average"])
            self.network.load_state_dict(state_dict["weights"])

    def _keep_settings(self, settings: list[dict[str, Any]]) -> None:
        """Go on as the config says now, also where the optimiser's state says otherwise."""
        changed = {}
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            # The rate itself is the schedule's, which goes on from the state.
            for name in own.keys() - {"params", "lr"}:
                if group.get(name) != own[name]:
                    changed[name] = f"{name} was {group.get(name)} and is {own[name]}"
                    group[name] = own[name]
        # The schedule may have changed too.
        self.scheduler.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate
        if changed:
            logger.warning("The optimiser's settings have changed: %s", "; ".join(changed.values()))


def _at_point(what: str, training_pass: TrainingPass) -> str:
    return f"{what} at operating point {training_pass.point} ({training_pass.kind})"


def check_start(cfg: CfgNode, resume: bool) -> None:
    """
    Check what a run starts from, before anything is loaded or written.

    Raises:
        ConfigError: if a fresh run would overwrite checkpoints or freeze random weights, or if
            ``MODEL.WEIGHTS`` is no file.
    """
    earlier = checkpoints(Path(cfg.OUTPUT_DIR))
    if not earlier:
        check_weights(cfg)
    elif not resume:
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds the checkpoint {earlier[0]} of an earlier run. "
            "Add --resume to continue it, or set another OUTPUT_DIR."
        )


def check_weights(cfg: CfgNode) -> None:
    """ConfigError if ``MODEL.WEIGHTS`` is no file, or random weights would be frozen without it."""
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not os.path.isfile(weights):
        raise ConfigError(f"MODEL.WEIGHTS is {weights!r}, and there is no such file.")
    if not weights and cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT} and MODEL.WEIGHTS is "
            "empty: stages of random weights would be frozen. Set MODEL.WEIGHTS to a pretrained "
            "backbone, or MODEL.BACKBONE.FREEZE_AT 0."
        )


def build_sampler(cfg: CfgNode, seed: int) -> SandwichSampler | IndependentSampler:
    """The sampler of operating points that ``MUTUALNET.METHOD`` asks for."""
    node = cfg.MUTUALNET
    if node.METHOD in ALONE:
        drawn = node.RESOLUTIONS if node.METHOD == "independent_multi_scale" else ()
        return IndependentSampler(*full_point(cfg), drawn, seed)
    widths = ()
    if node.STATISTICS == "frozen":
        widths = sorted({point.width for point in grid_points(cfg)})
    return SandwichSampler(
        node.METHOD, node.WIDTH_RANGE, node.RESOLUTIONS, node.NUM_RANDOM, seed, widths
    )
