"""What command lines of several tools have in common."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any


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
