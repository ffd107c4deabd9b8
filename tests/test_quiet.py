"""A normal run says nothing of the libraries' own affairs, and everything else."""

import subprocess
import sys

RUN = """
import logging, sys, warnings
import torch
import mutualnet_det
from detectron2 import model_zoo
from mutualnet_det.modeling.build import build_network

cfg = mutualnet_det.load_config("quickstart_shapes", ["MODEL.DEVICE", "cpu"])
model = build_network(cfg).eval()
with torch.no_grad():
    model([{"image": torch.zeros(3, 64, 64)}])
log = logging.getLogger("torch.utils.cpp_extension")
log.warning("No CUDA runtime is found, using CUDA_HOME")
warnings.warn("`torch.jit.script` is deprecated. Please switch", FutureWarning)
print("begin", file=sys.stderr)
log.warning("another")
warnings.warn("another", FutureWarning)
"""


def test_a_forward_prints_no_warning_of_a_library():
    ended = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    before, after = ended.stderr.split("begin\n")
    assert before == ""
    assert after.count("another") == 2
