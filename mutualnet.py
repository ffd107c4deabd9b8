"""
The command ``mutualnet``: one subcommand for each of the project's tools.

The list of commands needs the standard library alone, so that it comes at once and whatever is
missing; a command's own tool is imported when it is called.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Command(NamedTuple):
    """The file in the folder of tools, without its ending, and what it does."""

    tool: str
    summary: str


COMMANDS = {
    "Set up": {
        "doctor": Command("doctor", "what is installed, what fits, what to do about the rest"),
        "install-detectron2": Command("install_detectron2", "install Detectron2 if it is missing"),
    },
    "Train": {
        "import": Command("import_backbone", "convert a pretrained backbone for training"),
        "pretrain": Command("pretrain_backbone", "train a classifier, a detector's backbone"),
        "train": Command("train_net", "train a detector, or a segmentation network"),
        "check-data": Command("check_data", "what training would learn from, and what is wrong"),
        "plot": Command("plot_metrics", "draw the losses and times of trainings"),
        "export-backbone": Command("export_backbone", "write a classifier for torchvision or timm"),
    },
    "Evaluate": {
        "evaluate": Command("eval_grid", "AP, cost and latency of each operating point"),
        "cost": Command("count_cost", "count the GFLOPs of each operating point; needs no data"),
        "profile": Command("profile_latency", "measure latency and memory on this device"),
        "report": Command("report", "make a page of one or several evaluations"),
    },
    "Use": {
        "predict": Command("predict", "write what a model finds on many images, as COCO results"),
        "demo": Command("demo", "run a model within a budget on images, a video or a camera"),
        "serve": Command("serve", "serve a page on which the budget can be dragged"),
        "export": Command("export_point", "write one operating point as a plain network"),
    },
    "Prove": {
        "compare": Command("compare_methods", "train and evaluate several methods by a plan"),
        "benchmark": Command("benchmark", "what an adjustable width costs in inference"),
        "benchmark-training": Command("benchmark_training", "what a training step costs"),
        "benchmark-layouts": Command("benchmark_layouts", "memory layouts and mixed precision"),
        "benchmark-runtime": Command("benchmark_runtime", "what predicting and evaluating cost"),
        "benchmark-scaling": Command("benchmark_scaling", "how training scales with processes"),
    },
}
# They make the imports of the others work, and import nothing of the package.
STANDALONE = tuple(COMMANDS["Set up"])


def commands() -> dict[str, Command]:
    """Return all commands by their names."""
    return {name: command for group in COMMANDS.values() for name, command in group.items()}


def listing() -> str:
    """Return what ``mutualnet`` alone prints."""
    width = max(map(len, commands()))
    lines = [
        "usage: mutualnet COMMAND ...",
        "",
        "MutualNet for detection: one set of weights for every budget.",
    ]
    for title, group in COMMANDS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {command.summary}" for name, command in group.items()]
    return "\n".join([*lines, "", "`mutualnet COMMAND --help` tells the options of one."])


def load_tool(name: str) -> ModuleType:
    """
    Import the tool of a command.

    Every tool has ``build_parser()``, ``parse_args(arguments)`` and ``main(args)``.

    Args:
        name: of the command.

    Raises:
        ImportError: if something that it needs is not installed.
    """
    here = Path(__file__).resolve().parent
    packaged = here / "mutualnet_det" / "tools"
    folder = packaged if packaged.is_dir() else here / "tools"  # of a clone
    tool = commands()[name].tool
    spec = importlib.util.spec_from_file_location(f"mutualnet_tools_{tool}", folder / f"{tool}.py")
    assert spec is not None and spec.loader is not None  # the file ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(arguments: Sequence[str] | None = None) -> int | None:
    """
    Run a command.

    Args:
        arguments: the command's name and its own arguments; None: those of this process.

    Returns:
        its exit status; None is a success.
    """
    name, *arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
        return 0
    if name not in commands():
        close = difflib.get_close_matches(name, commands())
        hint = f"did you mean {' or '.join(close)}?" if close else "`mutualnet` lists them."
        print(f"mutualnet: error: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    reported: Callable[[], AbstractContextManager[None]] = nullcontext
    try:
        if name not in STANDALONE:
            from mutualnet_det.errors import reported
        tool = load_tool(name)
    except ImportError as error:
        hint = "`mutualnet doctor` tells what to do."
        lacks_a_library = isinstance(error, ModuleNotFoundError)
        print(f"error: {error}", *[hint] * lacks_a_library, sep=". ", file=sys.stderr)
        return 1
    with reported():
        return tool.main(tool.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
