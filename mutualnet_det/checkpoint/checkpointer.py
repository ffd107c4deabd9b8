"""Saving and loading a detector, or the backbone of one."""

from __future__ import annotations

import os
from typing import Any

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
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.cfg = cfg
        # Whether what was loaded last was a backbone, not a whole detector.
        self.is_backbone_only = False

    def save(self, name: str, **kwargs: Any) -> None:
        """
        Write ``<save_dir>/<name>.pth`` and mark it as the last; ``kwargs`` go into it as they are.

        FloatingPointError, and nothing is written, if a weight or running statistic is not finite.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        weights = self.model.state_dict()
        for key, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(
                    f"{key} is not finite: {name}.pth is not written. The last good checkpoint is "
                    f"{self.get_checkpoint_file() or 'none'}."
                )
        data = {"model": weights, "mutualnet": provenance(self.cfg)}
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

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """
        Load the model and what was saved beside it.

        Args:
            path: of the file, or a web address, which is downloaded once.
            checkpointables: names of what to load beside the model; None: all there is.

        Returns:
            what else the file holds.

        Raises:
            CheckpointError: naming the file and what is wrong with it.
        """
        self.logger.info("Loading %s", path)
        checkpoint = read_checkpoint(self.path_manager.get_local_path(path))
        try:
            check_provenance(checkpoint.get("mutualnet", {}), self.cfg, path)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        names = list(self.checkpointables if checkpointables is None else checkpointables)
        for name in names:
            if name not in checkpoint:
                raise CheckpointError(
                    f"{path} holds no {name!r}, so nothing can go on from it. To start from its "
                    "weights, set MODEL.WEIGHTS to it and another OUTPUT_DIR."
                )
        self._load_weights(checkpoint.pop("model"), path)
        for name in names:
            try:
                self.checkpointables[name].load_state_dict(checkpoint.pop(name))
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{path}: its {name!r} does not fit. Go on with the config it was written "
                    f"with. ({error})"
                ) from error
        return checkpoint

    def _load_weights(self, state: dict[str, Any], path: str) -> None:
        state = {key.removeprefix("module."): value for key, value in state.items()}
        target: nn.Module = self.model
        self.is_backbone_only = all(k.startswith((BACKBONE_PREFIX, "classifier.")) for k in state)
        if self.is_backbone_only:
            target = self.model.backbone.bottom_up
            # A classification network goes on after the last feature; the detector does not.
            layers = {_layer(key) for key in target.state_dict()}
            state = {key: value for key, value in state.items() if _layer(key) in layers}
        _check_fits(state, target, path)
        target.load_state_dict(state)


def _layer(key: str) -> str:
    return ".".join(key.split(".")[:2])


def _check_fits(state: dict[str, Any], model: nn.Module, path: str) -> None:
    expected = model.state_dict()
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
            f"{'; '.join(missing[:2] + unfit[:2] + unknown[:2])}."
        )


def find_weights(cfg: CfgNode, resume: bool = False) -> str:
    """
    The checkpoint to evaluate: the last one in ``OUTPUT_DIR`` on ``resume``, else
    ``MODEL.WEIGHTS``, else the last one again. CheckpointError if there is none.
    """
    if cfg.MODEL.WEIGHTS and not resume:
        return cfg.MODEL.WEIGHTS
    tag = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if not os.path.isfile(tag):
        raise CheckpointError(
            f"There is no trained model in OUTPUT_DIR {cfg.OUTPUT_DIR}. Train one first, or set "
            "MODEL.WEIGHTS to a checkpoint."
        )
    with open(tag) as file:
        return os.path.join(cfg.OUTPUT_DIR, file.read().strip())


def load_detector(cfg: CfgNode, path: str) -> tuple[nn.Module, Calibrations]:
    """
    A detector in evaluation mode, on ``MODEL.DEVICE``, with the calibrations its checkpoint holds.

    Args:
        path: a checkpoint of a detector trained with ``cfg``.
    """
    model = build_model(cfg).eval()
    checkpointer = MutualCheckpointer(model, cfg)
    extra = checkpointer.load(path, checkpointables=[])
    if checkpointer.is_backbone_only:
        raise CheckpointError(
            f"{path} holds a backbone alone; evaluation needs a trained detector. Set "
            "MODEL.WEIGHTS to its checkpoint, or add --resume to take the last one in OUTPUT_DIR."
        )
    calibrations = Calibrations(model)
    if "calibrations" in extra:
        calibrations.load_state_dict(extra["calibrations"])
    return model, calibrations
