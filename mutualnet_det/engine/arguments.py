"""What command lines of several tools have in common."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ..config import load_config
from ..data.check import check_datasets


def take_values(
    parser: argparse.ArgumentParser, args: argparse.Namespace, name: str, kind: Callable
) -> None:
    """
    Make what the option ``name`` was given, some texts or None, values of a kind.

    An option of several values takes all that follows it: KEY VALUE overrides, which are the part
    that begins with a letter, are put in front of ``args.opts``. A wrong value ends the program
    with the parser's message.
    """
    texts = getattr(args, name)
    if texts is None:
        return
    overrides = list(itertools.dropwhile(lambda text: not text[:1].isalpha(), texts))
    texts = texts[: len(texts) - len(overrides)]
    args.opts = overrides + args.opts
    if not texts:
        parser.error(f"--{name} needs at least one value")
    try:
        setattr(args, name, [kind(text) for text in texts])
    except ValueError as error:
        parser.error(f"--{name}: {error}")


def benchmarked(description: str | None) -> tuple[CfgNode, int]:
    """
    Of the command line of a benchmark: the config, with its data there, and how many rounds.

    Args:
        description: of the tool.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config-file", default="configs/quickstart_shapes.yaml", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=30, help="that are timed; default: 30")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; expected at least 1")
    cfg = load_config(args.config_file, args.opts)
    setup_logger(name="mutualnet_det")
    check_datasets(cfg)
    return cfg, args.rounds
