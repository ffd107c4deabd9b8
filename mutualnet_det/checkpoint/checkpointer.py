"""Saving and loading a detector, or the backbone of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..data.class_names import class_names
from ..modeling.backbones import SlimmableBackbone
from ..modeling.build import build_network
from ..modeling.classifier import network_of
from ..slimmable import Calibrations
from .layouts import classifier_entries, differ_in_statistics
from .provenance import check_provenance, check_width_range, provenance
from .reading import CheckpointError, read_checkpoint
from .recognising import recognise_state, without_wrappers
from .run_folder import add_checkpoint, add_sum, check_good, checkpoints, remove_drafts
from .starting import start_state
from .writing import NotWrittenError, write_checkpoint

# What a detector's state dict names its backbone; a backbone's own state dict goes without.
DETECTOR_PREFIX = "backbone."

# What to do about a full disk.
ROOM = (
    "Make room: MUTUALNET.CHECKPOINTS_KEPT removes old ones. A training that has ended goes on "
    "with --resume."
)


class MutualCheckpointer(Checkpointer):
    """
    fvcore's checkpointer, made safe and strict.

    A file is written beside its place and moved there whole, and its sum is kept: see
    :mod:`~mutualnet_det.checkpoint.run_folder`. It is read without running code from it. A
    checkpoint fits the model exactly or is refused; one of a backbone alone (imported, pretrained
    here or torchvision's) fits the model's backbone exactly. A training may start from a wider
    network, going on with the first channels, one of its sub-networks; and from one of other
    classes or heads: see :func:`~mutualnet_det.checkpoint.starting.start_state`.

    Args:
        model: a detector of this project, or a classification network: see :func:`network_of`.
        cfg: its config, checked against what a checkpoint says it was trained for.
        save_dir: folder of the checkpoints.
        checkpointables: saved and, on resume, loaded beside the model.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, save_dir: str = "", **checkpointables: Any):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.cfg = cfg

    def save(self, name: str, *, goes_on: bool = True, **kwargs: Any) -> None:
        """
        Write ``<save_dir>/<name>.pth``; ``kwargs`` go into it as they are.

        Args:
            goes_on: whether a training can go on from it: it holds what is saved beside the model,
                and is marked as the last. With ``MUTUALNET.CHECKPOINTS_KEPT`` older ones are
                removed then.

        Raises:
            FloatingPointError: if a weight or running statistic is not finite; nothing is written.
            NotWrittenError: if it cannot be written, as on a full disk; the last one stays.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        last = f"The last good checkpoint is {self.get_checkpoint_file() or 'none'}."
        weights = self.model.state_dict()
        for key, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{key} is not finite: {name}.pth is not written. {last}")
        data = {"model": weights, "mutualnet": provenance(self.cfg)}
        if goes_on:
            data |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            remove_drafts(path.parent)
            file_sum = write_checkpoint(str(path), {**data, **kwargs})
            if goes_on:
                add_checkpoint(path, file_sum, self.cfg.MUTUALNET.CHECKPOINTS_KEPT)
            else:
                add_sum(path, file_sum)
        except NotWrittenError as error:
            raise NotWrittenError(f"{error} {last} {ROOM}") from error
        except OSError as error:
            text = f"{path} could not be marked as the last: {error}."
            raise NotWrittenError(f"{text} {last} {ROOM}") from error

    def load(
        self, path: str, checkpointables: list[str] | None = None, whole: bool = False
    ) -> dict[str, Any]:
        """
        Load the model and what was saved beside it.

        Args:
            path: of the file, or a web address, which is downloaded once.
            checkpointables: names of what to load beside the model; None: all there is.
            whole: refuse a backbone where the model is a detector.

        Returns:
            what else the file holds.

        Raises:
            CheckpointError: naming the file and what is wrong with it.
        """
        self.logger.info("Loading %s", path)
        checkpoint = read_checkpoint(self.path_manager.get_local_path(path))
        state = {
            without_wrappers(key).removeprefix("module."): value
            for key, value in checkpoint.pop("model").items()
        }
        # From weights alone a training starts; else it goes on.
        starts = checkpointables == [] and not whole
        names = list(self.checkpointables if checkpointables is None else checkpointables)
        is_part = not isinstance(self.model, SlimmableBackbone) and not any(
            key.startswith(DETECTOR_PREFIX) for key in state
        )
        if is_part and whole:
            raise CheckpointError(
                f"{path} holds a backbone alone; evaluation needs a trained detector. Set "
                "MODEL.WEIGHTS to its checkpoint, or add --resume to take the last one in "
                "OUTPUT_DIR."
            )
        try:
            check_provenance(checkpoint.get("mutualnet", {}), self.cfg, path, starts=starts)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        for name in names:
            if name not in checkpoint:
                raise CheckpointError(
                    f"{path} holds no {name!r}, so nothing can go on from it. To start from its "
                    "weights, set MODEL.WEIGHTS to it and another OUTPUT_DIR."
                )
        target = _backbone_of(self.model) if is_part else self.model
        target.load_state_dict(self._fitted(state, target, checkpoint, path, starts, is_part))
        for name in names:
            try:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{path}: its {name!r} does not fit. Go on with the config it was written "
                    f"with. ({error})"
                ) from error
        return checkpoint

    def _fitted(
        self,
        state: dict[str, Any],
        target: nn.Module,
        checkpoint: dict[str, Any],
        path: str,
        starts: bool,
        is_part: bool,
    ) -> dict[str, Any]:
        """The state dict that ``target`` loads, made from a file's; CheckpointError: none can."""
        saved = checkpoint.get("mutualnet", {})
        _, largest = saved.get("width_range", self.cfg.MUTUALNET.WIDTH_RANGE)
        # The network that the weights are of, or were before heads and classes changed.
        network = target
        if largest > self.cfg.MUTUALNET.WIDTH_RANGE[1]:
            network = self._wider(largest)
            network = _backbone_of(network) if is_part else network
        if is_part:
            state = self._without_classifier(state, target)
        elif starts:
            names = class_names(self.cfg)
            state = start_state(state, network, saved.get("classes", {}), names, path)
        _check_fits(state, network, path)
        if isinstance(target, SlimmableBackbone) and "mutualnet" not in checkpoint:
            self._check_static(path)
        own = target.state_dict()
        return {key: value[tuple(map(slice, own[key].shape))] for key, value in state.items()}

    def _wider(self, largest: float) -> nn.Module:
        """The network that the config's is a sub-network of."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MUTUALNET.WIDTH_RANGE = (cfg.MUTUALNET.WIDTH_RANGE[0], largest)
        with torch.random.fork_rng(devices=[]):
            return network_of(build_network(cfg))

    def _without_classifier(self, state: dict[str, Any], backbone: nn.Module) -> dict[str, Any]:
        """The entries of a classification network that are not behind a detector's features."""
        own = backbone.state_dict()
        head = {key for key in classifier_entries(self.cfg) if key not in own}
        return {key: value for key, value in state.items() if key not in head}

    def _check_static(self, path: str) -> None:
        """A state dict of others is taken for an ordinary network's, of the largest width."""
        largest = float(self.cfg.MUTUALNET.WIDTH_RANGE[1])
        try:
            check_width_range([largest, largest], self.cfg, path)
        except ValueError as error:
            raise CheckpointError(
                f"{path} does not say which widths it was trained at, so it counts as an ordinary "
                f"network. {error}"
            ) from error


def _backbone_of(detector: nn.Module) -> nn.Module:
    """Without the pyramid."""
    return getattr(detector.backbone, "bottom_up", detector.backbone)


def _check_fits(state: dict[str, Any], model: nn.Module, path: str) -> None:
    expected = model.state_dict()
    if differ_in_statistics(state, expected):
        saved, wanted = ("BN", "GN") if len(state) > len(expected) else ("GN", "BN")
        raise CheckpointError(
            f"{path} is of a network with MUTUALNET.NORM {saved}, the config has {wanted}. Set "
            "MUTUALNET.NORM in the config, or use weights trained that way."
        )
    missing = [f"{key} is missing" for key in expected if key not in state]
    unknown = [f"{key} is unknown" for key in state if key not in expected]
    unfit = [
        f"{key} has shape {tuple(value.shape)}, the model {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if missing or unknown or unfit:
        raise CheckpointError(
            f"{path} is of another architecture than the config's {type(model).__name__}. Of its "
            f"{len(expected)} entries {len(missing)} are missing and {len(unfit)} have another "
            f"shape; {len(unknown)} are unknown: "
            f"{'; '.join(missing[:2] + unfit[:2] + unknown[:2])}.{_hint(state, model, path)}"
        )


def _hint(state: dict[str, Any], model: nn.Module, path: str) -> str:
    """Advice about a backbone in the names of another code base."""
    if not isinstance(model, SlimmableBackbone):
        return ""
    try:
        layout = recognise_state(state, path).layout
    except CheckpointError:
        return ""
    return f" It is {layout}: convert it with `mutualnet import` first."


def find_weights(cfg: CfgNode, resume: bool = False) -> str:
    """
    The checkpoint to evaluate: the last one in ``OUTPUT_DIR`` on ``resume``, else
    ``MODEL.WEIGHTS``, else the last one again. CheckpointError if there is none, or if the last one
    is not as it was written.
    """
    if cfg.MODEL.WEIGHTS and not resume:
        return cfg.MODEL.WEIGHTS
    saved = checkpoints(Path(cfg.OUTPUT_DIR))
    if not saved:
        raise CheckpointError(
            f"There is no trained model in OUTPUT_DIR {cfg.OUTPUT_DIR}. Train one first, or set "
            "MODEL.WEIGHTS to a checkpoint."
        )
    check_good(saved[0])
    return str(saved[0])


def load_detector(cfg: CfgNode, path: str) -> tuple[nn.Module, Calibrations]:
    """
    A detector, or a classifier if ``cfg`` says so, in evaluation mode, on ``MODEL.DEVICE``, with
    the calibrations its checkpoint holds.

    The model's ``class_names`` are those that the checkpoint tells, by their key in the metadata
    of data sets.

    Args:
        path: a checkpoint of a model trained with ``cfg``.
    """
    model = build_network(cfg).eval()
    network = network_of(model)
    checkpointer = MutualCheckpointer(network, cfg)
    extra = checkpointer.load(path, checkpointables=[], whole=True)
    calibrations = Calibrations(network)
    if "calibrations" in extra:
        calibrations.load_state_dict(extra["calibrations"])
    model.class_names = extra.get("mutualnet", {}).get("classes", {})
    return model, calibrations
