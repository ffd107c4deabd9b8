"""tools/serve.py as a process: it serves, and ends cleanly."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mutualnet_det.runtime import PredictorError
from mutualnet_det.runtime.sources import SourceError
from tools import serve as tool

TOOL = Path(__file__).parents[2] / "tools" / "serve.py"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_serves_until_it_is_stopped(model_folder, tmp_path, number):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, TOOL, model_folder, "--port", str(port), "--device", "cpu"]
    # Uploads lie in a folder of their own there.
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line == f"Serving {model_folder} at http://127.0.0.1:{port}/ until Ctrl-C.\n"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                assert b"Detections within a budget" in page.read()
            process.send_signal(number)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and output == "Stopped.\n"
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("mutualnet_det_page_*"))


def test_a_folder_or_examples_that_are_not_there(model_folder, tmp_path):
    with pytest.raises(PredictorError, match="There is no folder nowhere"):
        tool.main(tool.parse_args(["nowhere"]))
    with pytest.raises(SourceError, match="holds no image"):
        tool.main(tool.parse_args([str(model_folder), "--examples", str(tmp_path)]))
