"""Options that the command lines of several tools share."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

from detectron2.engine import default_argument_parser

TRAINING_EXAMPLES = """Examples:

On one machine with 8 GPUs:
    $ {prog} --config-file cfg.yaml --num-gpus 8

With some keys of the config changed:
    $ {prog} --config-file cfg.yaml MODEL.WEIGHTS weights.pth SOLVER.BASE_LR 0.001

On several machines:
    (machine 0) $ {prog} --machine-rank 0 --num-machines 2 --dist-url URL --config-file cfg.yaml
    (machine 1) $ {prog} --machine-rank 1 --num-machines 2 --dist-url URL --config-file cfg.yaml
"""


def training_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """
    Build the parser of a training: Detectron2's options under the project's name.

    Args:
        prog: the command, such as "mutualnet train".
        description: what it does.
    """
    parser = default_argument_parser(TRAINING_EXAMPLES.format(prog=prog))
    parser.prog, parser.description = prog, description
    return parser


def add_model_folder(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the model that a tool runs."""
    parser.add_argument("folder", metavar="FOLDER", help="OUTPUT_DIR of an evaluated training")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add what changes keys of the config: all that follows the options."""
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")


def check_overrides(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with the parser's message for an option that stands among the overrides."""
    misplaced = [option for option in args.opts if option.startswith("--")]
    if misplaced:
        parser.error(f"{misplaced[0]} must come before the KEY VALUE overrides")


def add_budget(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add the options of a budget per image, or a point; the group takes other ways to say it."""
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--gflops", type=float, help="budget per image")
    budget.add_argument("--milliseconds", type=float, help="budget per image")
    budget.add_argument("--point", help="an operating point such as 0.5x360")
    parser.add_argument(
        "--clamp", action="store_true", help="take the cheapest point where none fits the budget"
    )
    parser.add_argument(
        "--latency-device", metavar="NAME", help="of the query table; default: the one it runs on"
    )
    return budget


def check_budget(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with the parser's message for ``--clamp`` without a budget."""
    if args.clamp and args.gflops is None and args.milliseconds is None:
        parser.error("--clamp needs --gflops or --milliseconds")


def parse_list_option(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    name: str,
    parse: Callable[[str], Any],
) -> None:
    """
    Replace the texts that the option ``name`` was given, if it was, by the values that they are.

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
        setattr(args, name, [parse(text) for text in texts])
    except ValueError as error:
        parser.error(f"--{name}: {error}")
