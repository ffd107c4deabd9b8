"""Windows: everything imports there and the runtime works; training says what it lacks."""

import subprocess
import sys

import pytest

# What a Python on Windows lacks. Detectron2's file locks are portalocker's, which has its own way.
LACKS = """
import signal, sys
import portalocker
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "pthread_sigmask", "sigtimedwait"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
IMPORTS = """
import importlib, pkgutil
import mutualnet_det
for module in pkgutil.walk_packages(mutualnet_det.__path__, "mutualnet_det."):
    importlib.import_module(module.name)
    print(module.name)
"""
TRAINS = """
import mutualnet
sys.exit(mutualnet.main(["train", "--config-file", "quickstart_shapes"]))
"""


@pytest.fixture
def run():
    def start(code, folder=None):
        command = [sys.executable, "-c", LACKS + code]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder)

    return start


def test_every_module_imports(run):
    ended = run(IMPORTS)
    assert ended.returncode == 0, ended.stderr
    assert {"mutualnet_det.engine.watch", "mutualnet_det.runtime.predictor"} <= {
        *ended.stdout.split()
    }


def test_training_says_what_it_lacks(run, tmp_path):
    ended = run(TRAINS, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: Training needs Linux or macOS: Windows lacks")
    assert len(ended.stderr.splitlines()) == 1 and not any(tmp_path.iterdir())
