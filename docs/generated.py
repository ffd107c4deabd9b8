"""
Parts of the reference that are made from the code when the site is built.

A page has a line such as ``<!-- generated: commands -->``; a function here writes what stands in
its place, in Markdown.
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import NamedTuple

from sphinx.application import Sphinx

import mutualnet

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "mutualnet_det" / "config" / "keys.py"
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


# Config keys -------------------------------------------------------------------------------------


class Keys(NamedTuple):
    """
    Config keys that share a comment.

    Attributes:
        defaults: each key with its default, as it stands in the code.
        meaning: the comment above them.
    """

    defaults: dict[str, str]
    meaning: str


def config_keys(source: str | None = None) -> list[Keys]:
    """
    Read the keys that ``add_mutualnet_config`` adds, from its source.

    Raises:
        ValueError: for a key without a comment; it names the key.
    """
    source = CONFIG.read_text(encoding="utf-8") if source is None else source
    function = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "add_mutualnet_config"
    )
    lines = source.splitlines()
    blocks: list[Keys] = []
    end = 0
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        comment = _comment_above(lines, node.lineno)
        key = ast.unparse(node.targets[0]).removeprefix("cfg.")
        if comment:
            blocks.append(Keys({}, comment))
        elif not blocks or node.lineno > end + 1:
            if not _makes_node(node):
                raise ValueError(f"{CONFIG.name}: {key} has no comment above it")
            blocks.append(Keys({}, ""))
        end = node.end_lineno or node.lineno
        if not _makes_node(node):
            blocks[-1].defaults[key] = ast.unparse(node.value)
    return [block for block in blocks if block.defaults]


def _makes_node(node: ast.Assign) -> bool:
    return isinstance(node.value, ast.Call)


def _comment_above(lines: list[str], number: int) -> str:
    """The comment that ends on the line before the line ``number``, counted from 1."""
    comment: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        comment.insert(0, line.strip().removeprefix("#").strip())
    return " ".join(comment)


def config_page() -> str:
    """Write every key under the node it belongs to, with its default and meaning."""
    nodes: dict[str, list[str]] = {}
    for keys in config_keys():
        parent = next(iter(keys.defaults)).rpartition(".")[0]
        # Of Detectron2's own nodes a few keys each: not worth a heading for every level.
        node = parent if parent.startswith("MUTUALNET") else parent.partition(".")[0]
        nodes.setdefault(node, []).append(_config_entry(keys))
    return "\n\n".join(f"## {node}\n\n" + "\n\n".join(nodes[node]) for node in nodes)


def _config_entry(keys: Keys) -> str:
    meaning = re.sub(r"arXiv (\d+\.\d+)", r"[arXiv \1](https://arxiv.org/abs/\1)", keys.meaning)
    meaning = re.sub(r"\b[A-Z]+[_.][A-Z_.]*[A-Z]\b", r"`\g<0>`", meaning)  # other keys
    if len(keys.defaults) == 1:
        ((key, default),) = keys.defaults.items()
        return f"````{{confval}} {key}\n:default: `{default}`\n\n{meaning}\n````"
    entries = [
        f"````{{confval}} {key}\n:default: `{default}`\n````"
        for key, default in keys.defaults.items()
    ]
    return "\n\n".join([meaning, *entries])


# Commands ----------------------------------------------------------------------------------------


def commands_page() -> str:
    """Write every command of ``mutualnet`` with its options, from the parsers."""
    parts = []
    for title, group in mutualnet.COMMANDS.items():
        parts.append(f"## {title}")
        for name in group:
            parser = mutualnet.load_tool(name).build_parser()
            parts.append(f"### mutualnet {name}\n\n" + command(parser))
    return "\n\n".join(parts)


def command(parser: argparse.ArgumentParser) -> str:
    """Write what a parser knows: what the command does, its usage, arguments and examples."""
    usage = parser.format_usage().removeprefix("usage: ")
    parts = [_escaped(parser.description or ""), f"```text\n{usage}```"]
    parts.append(f"```{{program}} {parser.prog}\n```")
    formatter = parser._get_formatter()
    for action in parser._actions:  # there is no public way to list them
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        shown = formatter._format_action_invocation(action)
        meaning = _escaped(formatter._expand_help(action)) if action.help else ""
        parts.append(f"````{{option}} {shown}\n{meaning}\n````")
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```")
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Escape what Markdown would take for markup, code apart; options become code."""
    text = re.sub(r"(?<![`\w])--[a-z][\w-]*", r"`\g<0>`", text.strip())
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"[*_<\[]", r"\\\g<0>", p) for p in pieces)


# The extension -----------------------------------------------------------------------------------

GENERATED = {"commands": commands_page, "config": config_page}


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = MARK.sub(lambda mark: GENERATED[mark[1]](), source[0])


def _skip_fields(app: Sphinx, what: str, name: str, member: object, *_: object) -> bool | None:
    """Leave out a named tuple's fields, which its docstring lists with their meaning."""
    generated = str(getattr(member, "__doc__", "")).startswith("Alias for field number")
    return True if generated else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("source-read", _fill)
    app.connect("autodoc-skip-member", _skip_fields)
    return {"parallel_read_safe": True}
