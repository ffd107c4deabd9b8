"""The site builds without a warning, and the reference names everything there is."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from detectron2.config import get_cfg

import mutualnet
import mutualnet_det
from mutualnet_det import OperatingPoint, add_mutualnet_config, slimmable
from mutualnet_det.evaluation import results
from mutualnet_det.lab.comparison import results as comparison
from mutualnet_det.runtime import query_table

pytest.importorskip("sphinx", reason="the site needs the extra `docs`")


@pytest.fixture(scope="module")
def site(request, tmp_path_factory):
    """The folder of the built pages."""
    root, folder = request.config.rootpath, tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("DOCS_INVENTORIES", None)
    built = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def generated(request):
    path = request.config.rootpath / "docs" / "generated.py"
    spec = importlib.util.spec_from_file_location("generated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, type(cfg)):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def anchors(page):
    return set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8")))


def test_the_public_names_have_entries(site):
    ids = anchors(site / "reference" / "api.html")
    names = {*mutualnet_det.__all__} - {"OperatingPoint"}  # which stands among the others
    assert {f"mutualnet_det.{name}" for name in names} <= ids
    names = {*slimmable.__all__} - {"Statistics"}  # a type's other name
    assert {f"mutualnet_det.slimmable.{name}" for name in names} <= ids


def test_every_config_key_has_an_entry(site, generated):
    cfg = get_cfg()
    detectron2s = set(flat(cfg))
    add_mutualnet_config(cfg)
    keys = {key for block in generated.config_keys() for key in block.defaults}
    assert keys == set(flat(cfg)) - detectron2s
    assert {f"confval-{key}" for key in keys} <= anchors(site / "reference" / "config.html")


def test_a_key_without_a_comment_is_an_error(generated):
    source = "def add_mutualnet_config(cfg):\n    cfg.A = 1\n"
    with pytest.raises(ValueError, match="A has no comment"):
        generated.config_keys(source)


def test_every_command_has_an_entry(site):
    ids = anchors(site / "reference" / "commands.html")
    assert {f"mutualnet-{name}" for name in mutualnet.commands()} <= ids
    assert "cmdoption-mutualnet-train-resume" in ids


def test_the_schemas_are_told(request):
    root = request.config.rootpath
    page = (root / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    for name, module in (
        ("query_table", query_table),
        ("grid", results),
        ("comparison", comparison),
    ):
        row = f"| `{name}.json` | {module.SCHEMA_VERSION} |"
        assert row in page
        assert row in changelog


def test_the_fields_of_a_query_table_are_told(request):
    page = (request.config.rootpath / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    latency = {"cpu": query_table.Latency(1.0, 2.0, 3.0)}
    entry = query_table.QueryEntry(OperatingPoint(0.5, 64), 1.0, latency, box_ap=10.0)
    table = query_table.QueryTable((entry,), "box_ap", "fingerprint", "data")
    names = set(re.findall(r'"(\w+)":', table.to_json())) - {"cpu"}
    assert names
    assert {name for name in names if f"`{name}`" not in page} == set()
