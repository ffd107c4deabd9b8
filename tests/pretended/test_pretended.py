"""
All kinds of network on a device as strict as a GPU, and how often a step waits for it.

To see what is counted where, run with ``-s``.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tabulate import tabulate

FOLDER = Path(__file__).parent
# By kind: the waits of a float32 step of 3 passes, of the project's own lines and of all. They may
# only fall.
BUDGETS = {
    "mask": (4, 146),
    "cascade": (8, 250),
    "keypoint": (16, 165),
    "panoptic": (7, 149),
    "retinanet": (24, 75),
    "semantic": (5, 5),
    "classifier": (3, 3),
}
WAITS = ("host to device", "device to host", "read", "waits")


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUDGETS)
def test_it_trains_and_waits_no_more_than_it_did(kind, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the pretended device with")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        pytest.skip("no headers of Python to build the pretended device with")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "script.py"), kind, str(tmp_path)],
        env={
            **os.environ,
            "DETECTRON2_DATASETS": str(tmp_path / "data"),
            "PYTHONPATH": str(FOLDER.parents[1]),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])

    counts = result["float32"]["counts"]
    waits = sorted((row for row in counts if row[0] in WAITS), key=lambda row: -row[-1])
    print(f"\n{kind}\n{tabulate(waits, ('what', 'place', 'own', 'count'))}")
    own = sum(count for _, _, is_own, count in waits if is_own)
    assert (own, sum(row[-1] for row in waits)) == BUDGETS[kind]
    copies = [(place, n) for what, place, _, n in counts if what == "asynchronous copy"]
    assert copies == [("data/upload.py uploaded", 1)]

    float32, bfloat16 = result["float32"], result["bfloat16"]
    assert float32["device"] == float32["cpu"]
    # Another list of operations than the CPU's is computed in half precision.
    assert all(math.isfinite(loss) for step in bfloat16["device"] for loss in step.values())
    assert result["life"] == {"start": 1, "points": 2}
