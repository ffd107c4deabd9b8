"""Width for any torch module: channel dimensions, layers, shared width, calibration, slicing."""

from .calibration import (
    Calibrations,
    NoDataError,
    SingleValueError,
    StaleCalibrationError,
    UncalibratedError,
)
from .channels import Channels, round_channels
from .gradients import gathered_gradients
from .group_norm import SlimmableGroupNorm, to_group_norm
from .layers import SlimmableConv2d, SlimmableConvTranspose2d, SlimmableLayer, SlimmableLinear
from .norm import SlimmableBatchNorm2d, share_statistics
from .point import OperatingPoint
from .slicing import sliced
from .width import Statistics, Width, at_width, width_of

__all__ = [
    "Calibrations",
    "Channels",
    "NoDataError",
    "OperatingPoint",
    "SingleValueError",
    "SlimmableBatchNorm2d",
    "SlimmableConv2d",
    "SlimmableConvTranspose2d",
    "SlimmableGroupNorm",
    "SlimmableLayer",
    "SlimmableLinear",
    "StaleCalibrationError",
    "Statistics",
    "UncalibratedError",
    "Width",
    "at_width",
    "gathered_gradients",
    "round_channels",
    "share_statistics",
    "sliced",
    "to_group_norm",
    "width_of",
]
