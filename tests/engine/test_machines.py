"""Two machines that train together, one of which is cut off: network namespaces with addresses."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

TRAIN, EVALUATE = "tools/train_net.py", "tools/eval_grid.py"
# By machine: its address and the end of the cable.
ADDRESSES = {"one": "10.213.7.1", "two": "10.213.7.2"}
NUMBERS = count()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines():
    """Their network namespaces by name, joined by a cable; their ends of it are called "cable"."""
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip("making network namespaces takes the rights of root, ip and unshare")
    names = {machine: f"mutualnet{os.getpid()}{machine}" for machine in ADDRESSES}
    try:
        for name in names.values():
            ip("netns", "add", name)
        one, two = names.values()
        ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "cable", "netns", two)
        for machine, name in names.items():
            ip("-n", name, "address", "add", f"{ADDRESSES[machine]}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
    except subprocess.CalledProcessError as error:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        pytest.skip(f"this system makes no network namespaces: {error.stderr.decode()}")
    yield names
    for name in names.values():
        ip("netns", "delete", name)


@pytest.fixture
def start(request, machines, make_training_cfg, tmp_path):
    """
    ``start(tool, *options)``: torchrun on both; returns their processes and outputs, by name.

    Each sees its own processes alone, and has a name that both know.
    """
    root = request.config.rootpath
    cfg = make_training_cfg(tmp_path / "run")
    cfg.SOLVER.IMS_PER_BATCH = 4
    (tmp_path / "config.yaml").write_text(cfg.dump())
    hosts = "".join(f"{address} {machine}\n" for machine, address in ADDRESSES.items())
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    known = f"mount --bind {tmp_path / 'hosts'} /etc/hosts"
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "cable",
    }
    started = []

    def run(tool, *options):
        number, there = next(NUMBERS), {}
        for machine, name in machines.items():
            output = tmp_path / f"{machine}_{number}.txt"
            isolated = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
            named = ("sh", "-c", f'{known} && hostname {machine} && exec "$@"', "sh")
            torchrun = (
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", str(number)),
                *("--rdzv-endpoint", f"{ADDRESSES['one']}:29500"),
                *("--local-addr", ADDRESSES[machine]),
            )
            work = (tool, "--config-file", str(tmp_path / "config.yaml"), "--resume")
            with output.open("w") as file:
                process = subprocess.Popen(
                    ["ip", "netns", "exec", name, *isolated, *named, *torchrun, *work]
                    + [str(option) for option in options],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    cwd=root,
                    env=environment,
                )
            started.append(process)
            there[machine] = (process, output)
        return there

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for(has_come: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not has_come():
        assert time.monotonic() < end
        time.sleep(0.1)


def scores(folder: Path) -> dict[str, bytes]:
    rows = json.loads((folder / "grid.json").read_text())["rows"]
    for row in rows:
        del row["latency"]
    files = {path.name: path.read_bytes() for path in (folder / "detections").iterdir()}
    return files | {"rows": json.dumps(rows).encode()}


@pytest.mark.slow
def test_one_is_cut_off_and_both_go_on_later(start, machines, request, tmp_path):
    run = tmp_path / "run"
    both = start(TRAIN, "SOLVER.MAX_ITER", 100000, "SOLVER.CHECKPOINT_PERIOD", 30)
    wait_for((run / "model_0000029.pth").exists, 120)
    time.sleep(2)  # where it saves, it waits for longer than in a step
    ip("-n", machines["one"], "link", "set", "cable", "down")
    causes = {
        "one": r"error: rank 1 on two \(pid \d+\) has not reported for 30 s",
        "two": r"error: rank 0 on one \(pid \d+\) has died, or its machine cannot be reached",
    }
    for machine, cause in causes.items():
        wait_for(lambda m=machine, c=cause: re.search(c, both[m][1].read_text()), 60)
    assert both["one"][0].wait(60) == 1
    # torchrun itself waits for its store on the other machine, for longer than eight minutes.
    both["two"][0].kill()

    ip("-n", machines["one"], "link", "set", "cable", "up")
    done = max(int(path.stem[-7:]) for path in run.glob("model_0*.pth")) + 1
    both = start(TRAIN, "SOLVER.MAX_ITER", done + 2)
    assert [process.wait(120) for process, _ in both.values()] == [0, 0]
    assert f"Starting training from iteration {done}" in both["one"][1].read_text()
    assert (run / "model_final.pth").exists()

    both = start(EVALUATE, "MODEL.WEIGHTS", run / "model_final.pth")
    assert [process.wait(120) for process, _ in both.values()] == [0, 0]
    assert "Everything is in" in both["one"][1].read_text()
    assert "Everything is in" not in both["two"][1].read_text()
    command = (sys.executable, EVALUATE, "--config-file", str(tmp_path / "config.yaml"))
    alone = ("--output", str(tmp_path / "alone"), "MODEL.WEIGHTS", str(run / "model_final.pth"))
    subprocess.run([*command, *alone], check=True, cwd=request.config.rootpath)
    assert scores(run / "grid") == scores(tmp_path / "alone")
