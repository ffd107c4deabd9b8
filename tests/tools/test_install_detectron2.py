"""The Detectron2 installer: what it accepts and writes, and that pip can install and remove it.

A small wheel in LabGym's layout stands in for the real one, so that nothing is downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import install_detectron2 as installer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).resolve().parents[2]
DONOR_FILES = {
    "LabGym/__init__.py": "",
    "LabGym/detectron2/__init__.py": '__version__ = "0.6"\n',
    "LabGym/detectron2/modeling/__init__.py": (
        "import LabGym.detectron2\nfrom LabGym.detectron2.layers import nms\n"
        'NAME = "LabGym.detectron2.modeling"\n'
    ),
    "LabGym/detectron2/layers/__init__.py": "nms = 1\n",
    "LabGym/detectron2/model_zoo/configs/Base.yaml": "VERSION: 2\n",
    "labgym-3.1.2.dist-info/METADATA": "Name: LabGym\n",
}


@pytest.fixture
def donor(tmp_path, monkeypatch):
    """Returns a function that writes a donor wheel, some files changed, and declares its hash."""

    def write(changes: dict[str, str] | None = None, renamed: int = 1) -> Path:
        path = tmp_path / "labgym.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in {**DONOR_FILES, **(changes or {})}.items():
                archive.writestr(name, text)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(installer, "DONOR_SHA256", digest)
        monkeypatch.setattr(installer, "RENAMED_FILES", renamed)
        return path

    return write


def run(*arguments: object) -> int:
    return installer.main(installer.parse_args([str(argument) for argument in arguments]))


def test_takes_detectron2_alone_and_renames_it_back(donor):
    files = installer.read_donor(donor())
    assert set(files) == {
        "detectron2/__init__.py",
        "detectron2/modeling/__init__.py",
        "detectron2/layers/__init__.py",
        "detectron2/model_zoo/configs/Base.yaml",
    }
    assert files["detectron2/modeling/__init__.py"].decode() == (
        'import detectron2\nfrom detectron2.layers import nms\nNAME = "detectron2.modeling"\n'
    )


def test_wrong_hash_is_refused_and_nothing_written(donor, tmp_path, monkeypatch, capsys):
    wheel = donor()
    monkeypatch.setattr(installer, "DONOR_SHA256", "0" * 64)
    assert run("--wheel", wheel, "--wheel-dir", tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert str(wheel) in message and "0" * 64 in message
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in message
    assert not (tmp_path / "out").exists()


def test_unexpected_number_of_renamed_files_is_refused(donor):
    with pytest.raises(installer.InstallError, match="renamed in 1 files, expected 133"):
        installer.read_donor(donor(renamed=133))


def test_reference_that_the_renaming_missed_is_refused(donor):
    wheel = donor({"LabGym/detectron2/layers/__init__.py": "from LabGym import detectron2\n"})
    with pytest.raises(installer.InstallError, match="layers/__init__.py still refers to LabGym"):
        installer.read_donor(wheel)


def test_missing_wheel_is_named(tmp_path, capsys):
    assert run("--wheel", tmp_path / "absent.whl", "--wheel-dir", tmp_path) == 1
    assert "absent.whl" in capsys.readouterr().err


def test_wheel_has_the_same_bytes_each_time(donor, tmp_path):
    wheel = donor()
    for folder in ("one", "two"):
        assert run("--wheel", wheel, "--wheel-dir", tmp_path / folder) == 0
    one, two = (tmp_path / folder / installer.WHEEL_NAME for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:  # two runs within a clock's tick would hide a time
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_record_lists_every_file_with_its_hash_and_size(donor, tmp_path):
    assert run("--wheel", donor(), "--wheel-dir", tmp_path) == 0
    with zipfile.ZipFile(tmp_path / installer.WHEEL_NAME) as archive:
        record = archive.read(f"{installer.DIST_INFO}/RECORD").decode()
        entries = dict(line.split(",", 1) for line in record.splitlines())
        assert set(entries) == set(archive.namelist())
        assert entries.pop(f"{installer.DIST_INFO}/RECORD") == ","
        for name, entry in entries.items():
            data = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert entry == f"sha256={digest},{len(data)}", name


def test_metadata_names_the_licence_and_what_the_copy_imports():
    text = installer.metadata().decode()
    assert "Name: detectron2\n" in text and "License-Expression: Apache-2.0\n" in text
    assert "Requires-Dist: setuptools>=77,<82\n" in text and "black" not in text


def test_folder_that_cannot_be_written_is_named(donor, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--wheel", donor(), "--wheel-dir", tmp_path / "file" / "folder") == 1
    assert str(tmp_path / "file" / "folder") in capsys.readouterr().err


def test_failed_download_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert run("--wheel-dir", tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "LabGym==3.1.2" in message and "--wheel FILE" in message and "network" in message


def test_importable_detectron2_is_kept(tmp_path, monkeypatch, capsys):
    put_detectron2(tmp_path, monkeypatch, modeling="")
    monkeypatch.setattr(installer, "install_copy", fail)
    monkeypatch.setattr(installer, "install_upstream", fail)
    for arguments in ([], ["--upstream"]):
        assert run(*arguments) == 0
        assert f"Keeping Detectron2 7.5 at {tmp_path / 'detectron2'}" in capsys.readouterr().out


def test_broken_detectron2_is_replaced_and_the_reason_shown(tmp_path, monkeypatch, capsys):
    put_detectron2(tmp_path, monkeypatch, modeling="raise ImportError('undefined symbol: x')")
    assert installer.find_detectron2() is None
    assert "replacing it: ImportError: undefined symbol: x" in capsys.readouterr().out


def test_detectron2_without_its_dependencies_gets_them_and_is_not_replaced(
    tmp_path, monkeypatch, capsys
):
    put_detectron2(tmp_path, monkeypatch, modeling="import a_missing_library")
    monkeypatch.setattr(installer, "install_copy", fail)

    def pip(*arguments: str, hint: str) -> None:
        assert arguments == ("install", "--quiet", *installer.REQUIRES)
        (tmp_path / "a_missing_library.py").write_text("")

    monkeypatch.setattr(installer, "pip", pip)
    assert run() == 0
    message = capsys.readouterr().out
    assert "No module named 'a_missing_library'" in message and "Keeping Detectron2" in message


def test_dependencies_that_pip_cannot_bring_are_named(tmp_path, monkeypatch, capsys):
    put_detectron2(tmp_path, monkeypatch, modeling="import a_missing_library")
    monkeypatch.setattr(installer, "pip", lambda *arguments, hint: None)
    assert run() == 1
    assert "No module named 'a_missing_library'" in capsys.readouterr().err


def test_what_detectron2_needs_is_in_the_extra_or_needed_by_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["detectron2"]
    required = {Requirement(text).name.lower(): text for text in installer.REQUIRES}
    ours = {Requirement(text).name.lower() for text in project["dependencies"]}
    assert sorted(extra) == sorted(text for name, text in required.items() if name not in ours)


def test_absent_detectron2_is_installed_as_asked(tmp_path, monkeypatch, capsys):
    answers = iter([None, "0.6 at here", None, "0.7 at here"])
    monkeypatch.setattr(installer, "find_detectron2", lambda: next(answers))
    calls = []
    monkeypatch.setattr(installer, "install_copy", lambda wheel: calls.append(wheel))
    monkeypatch.setattr(installer, "pip", lambda *arguments, hint: calls.append(arguments))
    assert run("--wheel", "some.whl") == 0
    assert run("--upstream") == 0
    assert calls[0] == Path("some.whl")
    assert "--no-build-isolation" in calls[2] and installer.UPSTREAM in calls[2]
    assert calls[1] == calls[3] == ("install", "--quiet", *installer.REQUIRES)
    assert "Installed Detectron2 0.7 at here" in capsys.readouterr().out


def test_upstream_with_a_wheel_is_refused(capsys):
    with pytest.raises(SystemExit):
        run("--upstream", "--wheel", "some.whl")
    assert "give one of them" in capsys.readouterr().err


def test_pip_installs_lists_and_removes_the_wheel(donor, tmp_path):
    assert run("--wheel", donor(), "--wheel-dir", tmp_path) == 0
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"

    def pip(*arguments: object) -> str:
        command = [sys.executable, "-m", "pip", "--python", python, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    pip("install", "--no-deps", "--no-index", tmp_path / installer.WHEEL_NAME)
    listed = pip("list", "--format=freeze").splitlines()
    assert f"detectron2=={installer.VERSION}" in listed
    subprocess.run([python, "-c", "import detectron2.modeling"], check=True)
    pip("uninstall", "--yes", "detectron2")
    assert not list((tmp_path / "venv").rglob("detectron2*"))


def put_detectron2(folder: Path, monkeypatch: pytest.MonkeyPatch, modeling: str) -> None:
    """Makes a `detectron2` importable by new processes, before any that is installed."""
    (folder / "detectron2" / "modeling").mkdir(parents=True)
    (folder / "detectron2" / "__init__.py").write_text('__version__ = "7.5"\n')
    (folder / "detectron2" / "modeling" / "__init__.py").write_text(modeling)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def fail(*arguments: object) -> None:
    raise AssertionError("must not be called")
