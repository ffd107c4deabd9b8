"""One of several processes that watch each other, started through runpy with the global JOB."""

import os
import signal
import sys
import time
from datetime import timedelta

import torch.distributed as dist

from mutualnet_det.distributed import wait_for_first
from mutualnet_det.engine import watch

VICTIMS = {"killed": 1, "killed_of_three": 1, "stopped": 1, "first_killed": 0, "first_stopped": 0}
LONG = 60  # s; a collective that never ends


def act(case, rank):
    """What a process does in a step."""
    if rank == {
        "killed": 1,
        "killed_of_three": 1,
        "stopped": 1,
        "first_killed": 0,
        "first_stopped": 0,
    }.get(case):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGSTOP if "stopped" in case else signal.SIGKILL)
    elif case == "failed" and rank == 1:
        raise ValueError("broken")
    elif case == "left" and rank == 1:  # asked to stop
        sys.exit(75)
    elif case == "ended":  # one earlier than the other
        time.sleep(0 if rank else 3)
    elif case == "alone":  # for longer than the watch's limit and the group's
        time.sleep(0 if rank else 5)
        wait_for_first()
    else:
        time.sleep(LONG)


def main(case, rank, port, folder, world_size=2):
    sys.stderr = open(f"{folder}/{case}_{rank}.txt", "w")
    watch.PERIOD, watch.LIMIT = 0.1, 2.0
    store = dist.TCPStore("127.0.0.1", port, world_size, is_master=rank == 0)
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=2),
    )
    with watch.watched(store, rank, world_size):
        steps = watch.WatchSteps()
        steps.before_step()
        act(case, rank)
        steps.after_step()
    time.sleep(2 * (rank == 0))  # it keeps the store


main(**JOB)  # noqa: F821 (set by runpy)
