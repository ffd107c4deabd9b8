"""
Exact filters for what libraries say on every run, and no user can do anything about.

Importing this module sets them; it must come before Detectron2's.
"""

import logging
import warnings

# By category, how the message begins.
WARNINGS = (
    (FutureWarning, "`torch.jit.script` is deprecated"),  # fvcore compiles losses on import
    (UserWarning, "torch.meshgrid: in an upcoming release"),  # Detectron2's anchors call it
    (UserWarning, "pkg_resources is deprecated"),  # Detectron2's model zoo imports it
)
# By logger, a part of the message.
LOG_LINES = (
    ("torch.fx._symbolic_trace", "is_fx_tracing will return true"),  # Detectron2's layers ask it
    ("torch.utils.cpp_extension", "No CUDA runtime is found"),  # there is a toolkit without a GPU
)

for _category, _beginning in WARNINGS:
    warnings.filterwarnings("ignore", _beginning, _category)
for _logger, _part in LOG_LINES:
    # A function is a filter: the record is kept if it returns True.
    logging.getLogger(_logger).addFilter(lambda record, part=_part: part not in record.getMessage())
