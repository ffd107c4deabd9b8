"""Saving and loading a detector, or the backbone of one."""

from __future__ import annotations

import os
from typing import Any, Optional

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..slimmable import Calibrations
from .provenance import check_provenance, provenance
from .reading import CheckpointError, read_checkpoint

# A backbone's own state dict, torchvision's included, names its layers so.
BACKBONE_PREFIX = "features."


class MutualCheckpointer(Checkpointer):
    """
    fvcore's checkpointer, made safe and strict.

    A file is written beside its place and moved there whole. It is read without running code from
    it. A checkpoint fits the model exactly or is refused; one of a backbone alone (torchvision's
    names) fits the model's backbone exactly.

    Args:
        model: a detector of this project.
        cfg: its config, checked against what a checkpoint says it was trained for.
        save_dir: folder of the checkpoints.
        checkpointables: saved and, on resume, loaded beside the model.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, save_dir: str = "", **checkpointables: Any):
        super().__init__(
            model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables
        )
        self.cfg = cfg

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Write ``<save_dir>/<name>.pth`` and mark it as the last; ``kwargs`` go into it as they are.

        FloatingPointError, and nothing is written, if a weight is not finite.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        for key, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise FloatingPointError(
                    f"{key} is not finite: {name}.pth is not written. The last good checkpoint is "
                    f"{self.get_checkpoint_file() or 'none'}."
                )
        data = {"model": self.model.state_dict(), "mutualnet": provenance(self.cfg)}
        data |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        torch.save({**data, **kwargs}, path + ".tmp")
        os.replace(path + ".tmp", path)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        with open(path + ".tmp", "w") as file:
            file.write(last_filename_basename)
        os.replace(path + ".tmp", path)

    def load(self, path: str, checkpointables: Optional[list[str]] = None) -> dict[str, Any]:
        """As fvcore's; CheckpointError names the file and what is wrong with it."""
        self._path = path
        return super().load(path, checkpointables)

    def _load_file(self, path: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(path)
        try:
            check_provenance(checkpoint.get("mutualnet", {}), self.cfg, path)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        state = {
            key.removeprefix("module."): value for key, value in checkpoint.pop("model").items()
        }
        target: nn.Module = self.model
        if state and all(key.startswith((BACKBONE_PREFIX, "classifier.")) for key in state):
            target = self.model.backbone.bottom_up
            # A classification network goes on after the last feature; the detector does not.
            state = {
                key: value for key, value in state.items() if _layer(key) in _layers(target)
            }
        _check_fits(state, target, self._path)
        target.load_state_dict(state)


def _layer(key: str) -> str:
    return ".".join(key.split(".")[:2])


def _layers(module: nn.Module) -> set[str]:
    return {_layer(key) for key in module.state_dict()}


def _check_fits(state: dict[str, Any], model: nn.Module, path: str) -> None:
    expected = model.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(value.shape)}, the model {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if problems:
        raise CheckpointError(
            f"{path} is of another architecture than the config's {type(model).__name__}: "
            f"{len(problems)} of {len(expected)} entries do not fit. {'; '.join(problems[:5])}."
        )


def load_detector(cfg: CfgNode, path: str) -> tuple[nn.Module, Calibrations]:
    """
    A detector in evaluation mode, on ``MODEL.DEVICE``, with the calibrations its checkpoint holds.

    Args:
        path: a checkpoint of a detector trained with ``cfg``.
    """
    model = build_model(cfg).eval()
    extra = MutualCheckpointer(model, cfg).load(path, checkpointables=[])
    calibrations = Calibrations(model)
    if "calibrations" in extra:
        calibrations.load_state_dict(extra["calibrations"])
    return model, calibrations
