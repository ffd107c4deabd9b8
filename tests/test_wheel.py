"""The wheel: all that a user needs is in it, and works outside any clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("mutualnet_det", "configs", "tools", "mutualnet.py")
METADATA = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

PREDICT = """
import mutualnet_det

predictor = mutualnet_det.BudgetPredictor.from_pretrained("smoke")
print(mutualnet_det.__file__)
print(predictor("datasets/shapes/val/000001.jpg", gflops=1.0).point)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built from a copy that a build may write to."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES + METADATA:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, folder]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_holds_the_package_the_configs_and_the_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("mutualnet_det/**/*", "configs/**/*.yaml", "tools/*.py", "mutualnet.py")
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {
        name if name.startswith("mutualnet") else f"mutualnet_det/{name}" for name in expected
    }
    assert "mutualnet_det/py.typed" in inside
    assert "mutualnet_det/configs/lab/compare_shapes.yaml" in inside
    assert inside <= names
    assert {name.partition("/")[0] for name in names} == {
        "mutualnet.py",
        "mutualnet_det",
        next(name for name in names if name.endswith("/METADATA")).partition("/")[0],
    }


@pytest.mark.slow
def test_trains_evaluates_and_predicts_outside_any_clone(wheel, tmp_path):
    """With the libraries of this environment, in a new one that holds the wheel alone."""
    venv.create(tmp_path / "venv", with_pip=False)
    paths = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    zipfile.ZipFile(wheel).extractall(site)
    # Behind it, as plain folders: an editable install of the project in there is not followed.
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if "site-" in path))
    work = tmp_path / "work"
    work.mkdir()
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH",)}
    environment = {**inherited, "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [tmp_path / "venv/bin/python", *arguments]
        ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    small = ("OUTPUT_DIR", "smoke", "MODEL.DEVICE", "cpu", "MUTUALNET.CALIBRATION.NUM_IMAGES", "8")
    config = ("--config-file", "quickstart_shapes")
    assert "evaluate" in run("-m", "mutualnet")
    run("-m", "mutualnet", "train", *config, *small, "SOLVER.MAX_ITER", "2")
    run("-m", "mutualnet", "evaluate", *config, "--points", "0.25x64", "1.0x160", *small)
    place, point = run("-c", PREDICT).splitlines()
    assert place.startswith(str(site)) and point in ("0.25x64", "1.00x160")
