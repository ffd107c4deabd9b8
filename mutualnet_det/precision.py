"""The numbers that a network computes in."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode


def training_dtype(cfg: CfgNode) -> torch.dtype:
    """
    What ``torch.autocast`` computes in during training: float32 without ``SOLVER.AMP.ENABLED``.

    ``MUTUALNET.AMP_DTYPE`` "auto" is bfloat16 on a GPU that computes in it itself, as NVIDIA's do
    from compute capability 8.0 on, and float32 everywhere else.
    """
    name = cfg.MUTUALNET.AMP_DTYPE if cfg.SOLVER.AMP.ENABLED else "float32"
    if name == "auto":
        on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
        quick = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bfloat16" if quick else "float32"
    return getattr(torch, name)


def set_matmul_precision(cfg: CfgNode) -> None:
    """Have a GPU multiply float32 matrices as ``MUTUALNET.MATMUL_PRECISION`` says."""
    if cfg.MODEL.DEVICE.startswith("cuda"):
        torch.set_float32_matmul_precision(cfg.MUTUALNET.MATMUL_PRECISION)
