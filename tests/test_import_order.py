"""Imports point down: the order of the layers is the one that docs/project/design.md tells."""

import ast
import re
import sys

import pytest

PACKAGE = "mutualnet_det"


@pytest.fixture
def root(request):
    return request.config.rootpath


def layers(root):
    text = (root / "docs" / "project" / "design.md").read_text(encoding="utf-8")
    table = text.partition("| layer | what it holds |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def imported(path, package):
    """The full names of the modules that a file of ``package``, a list of names, imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *filter(None, [node.module])]
            # `from . import name` may import a module
            yield from (".".join([*module, alias.name]) for alias in node.names)


def test_every_folder_has_a_layer(root):
    folders = {path.parent.name for path in (root / PACKAGE).glob("*/__init__.py")}
    assert folders <= set(layers(root))


def test_imports_point_down(root):
    order = layers(root)
    upward = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        *package, _ = path.relative_to(root).parts
        own = path.relative_to(root / PACKAGE).with_suffix("").parts[0]
        if own == "__init__":  # the public interface
            continue
        # The helpers beside the layers stand with the config: below all but slimmable.
        height = order.index(own if own in order else "config")
        for name in imported(path, package):
            top, layer, *_ = [*name.split("."), ""]
            if top == PACKAGE and layer in order[height + 1 :]:
                upward.append(f"{path.relative_to(root)} imports {name}")
    assert not upward


def test_slimmable_knows_torch_and_nothing_else(root):
    folder = root / PACKAGE / "slimmable"
    own = (f"{PACKAGE}.slimmable.", f"{PACKAGE}.compat.")  # compat: private names of torch
    outside = {
        f"{path.name} imports {name}"
        for path in folder.glob("*.py")
        for name in imported(path, [PACKAGE, "slimmable"])
        if name.split(".")[0] not in {"torch", "typing_extensions", *sys.stdlib_module_names}
        and not name.startswith(own)
    }
    assert not outside
