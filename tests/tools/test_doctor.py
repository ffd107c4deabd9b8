"""The doctor: each check finds its fault and says what to do; missing packages never stop it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tools import doctor
from tools.doctor import FAIL, OK, WARN

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pretend(monkeypatch):
    """Returns a function that decides what importing a module gives, and which versions are told.

    A module given as an exception fails to import with it; None stands for one not installed.
    """

    modules: dict[str, object] = {}
    versions: dict[str, str] = {}

    def import_module(name: str, package: str | None = None) -> object:
        result = modules[name] if name in modules else original(name, package)
        if result is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        if isinstance(result, Exception):
            raise result
        return result

    original = doctor.importlib.import_module
    told = doctor.version_of
    monkeypatch.setattr(doctor.importlib, "import_module", import_module)
    monkeypatch.setattr(doctor, "version_of", lambda name: versions.get(name) or told(name))

    def set_up(replaced: dict[str, object], **told_versions: str) -> None:
        modules.update(replaced)
        versions.update(told_versions)

    return set_up


def test_this_environment_fits():
    findings = doctor.all_findings()
    assert [finding for finding in findings if finding.status == FAIL] == []
    assert len({finding.name for finding in findings}) == len(findings)


def test_python_too_old(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 18, "final", 0))
    finding = doctor.check_python()
    assert (finding.state, finding.status) == ("3.9.18", FAIL)
    assert "3.10" in finding.advice


def test_a_requirement_that_is_missing(pretend):
    pretend({}, torch=doctor.UNKNOWN)
    finding = doctor.check_requirement("torch>=2.1")
    assert (finding.state, finding.status) == ("not installed", FAIL)
    assert finding.advice == 'pip install "torch>=2.1"'


def test_a_requirement_that_is_too_old(pretend):
    pretend({}, torch="2.0.1+cpu")
    finding = doctor.check_requirement("torch>=2.1")
    assert (finding.state, finding.status) == ("2.0.1+cpu; >=2.1 is needed", FAIL)


def test_torch_2_10_is_newer_than_2_1(pretend):
    pretend({}, torch="2.10.0")
    assert doctor.check_requirement("torch>=2.1").status == OK


@pytest.mark.parametrize(
    ("version", "error", "status", "state"),
    [
        (doctor.UNKNOWN, None, OK, "not installed (optional, extra demo)"),
        ("4.4", None, WARN, "4.4; >=4.5 is needed (optional, extra demo)"),
        ("4.9", ImportError("libGL"), WARN, "installed, but its import fails: libGL"),
    ],
)
def test_what_an_extra_asks_for_does_not_have_to_be_there(pretend, version, error, status, state):
    pretend({"cv2": error} if error else {}, **{"opencv-python-headless": version})
    finding = doctor.check_requirement("opencv-python-headless>=4.5", "demo")
    assert finding.status == status and finding.state.startswith(state)
    assert finding.advice == 'pip install "mutualnet_det[demo]"'


def test_requirements_are_those_of_the_metadata():
    """Every line of pyproject.toml that a user's run depends on is looked at."""
    names = {finding.name for finding in doctor.check_requirements()}
    assert {"torch", "fvcore", "hydra-core", "gradio", "onnxruntime", "hotcoco"} <= names
    assert not names & {"pytest", "sphinx", "mutualnet_det", "mutualnet-det"}


@pytest.mark.parametrize(
    ("distribution", "module"),
    [("pillow", "PIL"), ("pyyaml", "yaml"), ("hydra-core", "hydra"), ("matplotlib", "matplotlib")],
)
def test_the_module_of_a_distribution(distribution, module):
    assert doctor.module_of(distribution) == module


@pytest.mark.parametrize(
    ("torch", "torchvision", "status"),
    [
        ("2.1.0", "0.16.2", OK),
        ("2.11.0+cu130", "0.26.0+cu130", OK),
        ("2.13.0+cpu", "0.26.0", WARN),
        ("2.11.0", "0.25.0", WARN),
        ("3.0.0", "1.0.0", OK),  # no rule is known: what counts is whether its ops run
    ],
)
def test_torchvision_pairs(pretend, torch, torchvision, status):
    pretend({"torchvision": SimpleNamespace(__version__=torchvision)}, torch=torch)
    finding = doctor.check_torchvision()
    assert finding.status == status
    assert bool(finding.advice) == (status != OK)


def test_torchvision_whose_import_fails_names_the_partner_of_torch(pretend):
    broken = RuntimeError("operator torchvision::nms does not exist\nmore")
    pretend({"torchvision": broken}, torch="2.9.1")
    finding = doctor.check_torchvision()
    assert finding.status == FAIL
    assert finding.state.endswith("operator torchvision::nms does not exist")
    assert "torchvision==0.24.*" in finding.advice


def test_ops_that_do_not_run(pretend):
    def broken(*arguments):
        raise RuntimeError("Couldn't load custom C++ ops")

    pretend({"torchvision.ops": SimpleNamespace(nms=broken)})
    finding = doctor.check_torchvision_ops()
    assert finding.status == FAIL and "fail on cpu: Couldn't load" in finding.state


def test_ops_that_give_wrong_results(pretend):
    from torchvision import ops

    keeps_all = SimpleNamespace(nms=lambda boxes, *_: boxes, roi_align=ops.roi_align)
    pretend({"torchvision.ops": keeps_all})
    assert "wrong results" in doctor.check_torchvision_ops().state


def test_torch_built_for_another_numpy(pretend):
    def numpy():
        raise RuntimeError("Numpy is not available")

    tensor = SimpleNamespace(numpy=numpy)
    pretend({"torch": SimpleNamespace(__version__="2.1.0", ones=lambda _: tensor)})
    finding = doctor.check_numpy()
    assert finding.status == FAIL and "numpy<2" in finding.advice


def test_pycocotools_built_for_another_numpy(pretend):
    pretend({"pycocotools.mask": ValueError("numpy.dtype size changed")})
    finding = doctor.check_pycocotools()
    assert finding.status == FAIL and "numpy.dtype size changed" in finding.state
    assert "--force-reinstall" in finding.advice


def test_detectron2_missing(pretend):
    pretend({"detectron2": None, "detectron2._C": None})
    finding = doctor.check_detectron2()
    assert (finding.state, finding.status) == ("not installed", FAIL)
    assert "mutualnet install-detectron2" in finding.advice
    assert doctor.check_detectron2_compiled().status == WARN


def test_folder_named_detectron2_is_no_detectron2(pretend):
    pretend({"detectron2": ModuleType("detectron2"), "detectron2.modeling": ModuleType("modeling")})
    assert doctor.check_detectron2().status == FAIL


@pytest.mark.parametrize(
    ("extension", "status", "state"),
    [
        (None, OK, "not compiled"),
        (ModuleType("_C"), OK, "compiled (not needed)"),
        (ImportError("undefined symbol"), WARN, "undefined symbol"),
    ],
)
def test_compiled_extension(pretend, monkeypatch, extension, status, state):
    pretend({"detectron2._C": extension})
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: extension)
    finding = doctor.check_detectron2_compiled()
    assert finding.status == status and state in finding.state


def test_setuptools_without_pkg_resources(pretend):
    pretend({"pkg_resources": None}, setuptools="82.0.0")
    finding = doctor.check_pkg_resources()
    assert finding.status == WARN
    assert "82.0.0" in finding.state and "setuptools<82" in finding.advice


def test_library_whose_own_dependency_is_missing(pretend):
    pretend({"fvcore": ModuleNotFoundError("No module named 'yacs'", name="yacs")})
    assert doctor.check_requirement("fvcore>=0.1.5").state == "No module named 'yacs'"


def test_project_not_installed(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    finding = doctor.check_project()
    assert finding.status == FAIL and "pip install" in finding.advice


@pytest.mark.parametrize(
    ("devices", "why_not", "status", "text"),
    [
        (2, "", OK, "13.0; 0: A GPU (24 GiB, compute capability 8.6), 1: A GPU (24 GiB"),
        (1, "A GPU is too old.", WARN, "A GPU is too old."),
        (0, "", OK, "none: everything runs on the CPU"),
        (0, "The driver is too old.", WARN, "The driver is too old."),
    ],
)
def test_cuda(pretend, devices, why_not, status, text):
    properties = SimpleNamespace(name="A GPU", total_memory=24 * 2**30, major=8, minor=6)
    cuda = SimpleNamespace(
        is_available=lambda: devices > 0,
        device_count=lambda: devices,
        get_device_properties=lambda index: properties,
    )
    gpu = SimpleNamespace(why_no_gpu=lambda: why_not, why_unsupported=lambda index: why_not)
    torch = SimpleNamespace(version=SimpleNamespace(cuda="13.0"), cuda=cuda)
    pretend({"torch": torch, "mutualnet_det.gpu": gpu})
    finding = doctor.check_cuda()
    assert finding.status == status
    assert text in finding.state + finding.advice


def test_exit_status_and_summary_follow_the_findings(monkeypatch, capsys):
    fits = doctor.Finding("a", "1.0")
    warned = doctor.Finding("b", "2.0", WARN, "look at it")
    failed = doctor.Finding("long name", "absent", FAIL, "install it")
    monkeypatch.setattr(doctor, "all_findings", lambda: [fits, warned])
    assert doctor.main(doctor.parse_args([])) == 0
    monkeypatch.setattr(doctor, "all_findings", lambda: [fits, failed])
    assert doctor.main(doctor.parse_args([])) == 1
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "ok    a          1.0",
        "FAIL  long name  absent",
        "                 -> install it",
        "",
        "Does not fit: long name.",
    ]


def test_prints_the_whole_table_where_nothing_is_installed():
    """-S hides all installed packages, -E what PYTHONPATH might add."""
    script = ROOT / "tools" / "doctor.py"
    result = subprocess.run(
        [sys.executable, "-S", "-E", script], capture_output=True, text=True, cwd=os.sep
    )
    assert result.returncode == 1, result.stderr
    lines = [line for line in result.stdout.splitlines() if re.match(r"(ok|warn|FAIL) ", line)]
    assert len(lines) == 7 and "unknown: packaging is not installed" in result.stdout
    assert result.stderr == ""


def test_the_minimum_python_is_that_of_the_project():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">={}.{}"'.format(*doctor.MINIMUM_PYTHON) in text
