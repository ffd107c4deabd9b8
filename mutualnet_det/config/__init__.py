"""The config: its keys, the values they may have, the operating points they name, its files."""

from ..errors import ConfigError
from .checks import check_config, check_no_gpu_named, check_num_gpus
from .choices import ALONE, METHODS, SCOPES
from .files import check_output_dir, find_config, flattened, load_config
from .keys import add_mutualnet_config, ema_decay
from .loss_terms import LOSS_TERMS, ROI_TERMS, default_loss_weights, terms_present
from .points import (
    check_points,
    eval_point,
    eval_points,
    full_point,
    grid_points,
    trained_widths,
)

__all__ = [
    "ALONE",
    "LOSS_TERMS",
    "METHODS",
    "ROI_TERMS",
    "SCOPES",
    "ConfigError",
    "add_mutualnet_config",
    "check_config",
    "check_no_gpu_named",
    "check_num_gpus",
    "check_output_dir",
    "check_points",
    "default_loss_weights",
    "ema_decay",
    "eval_point",
    "eval_points",
    "find_config",
    "flattened",
    "full_point",
    "grid_points",
    "load_config",
    "terms_present",
    "trained_widths",
]
