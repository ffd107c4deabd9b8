"""
A training in a process of its own, killed or asked to stop where the job says.

Started through runpy with the global JOB: the arguments of ``main``.
"""

import io
import itertools
import multiprocessing
import os
import signal
import sys
import time

import torch
from detectron2.utils.env import seed_all_rng

from mutualnet_det.checkpoint import run_folder, writing
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer, metrics, trainer


def kill_now(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_mid_write(content, file):
    """What a kill during torch.save leaves: the first half of the file."""
    buffer = io.BytesIO()
    written(content, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    kill_now()


written = torch.save


def kill_at_operation(folder, number):
    """Before the change of this number to what lies in a folder, from 0."""
    changes = itertools.count()

    def change(event, args):
        is_change = event in ("open", "os.rename", "os.remove", "write")
        if is_change and str(args[0]).startswith(folder) and next(changes) == number:
            kill_now()

    sys.addaudithook(change)
    # The pieces of a checkpoint have no event of their own. Of the thousands, as many count that
    # what is done with the whole file is not left out.
    write = writing._Summed.write
    pieces = itertools.count()

    def audited(self, data):
        if next(pieces) % 200 == 0:
            sys.audit("write", self._file.name)
        return write(self, data)

    writing._Summed.write = audited


def ask(numbers, workers):
    """Send signals to this process, and perhaps to the workers of its loader, a while apart."""
    processes = [os.getpid(), *(p.pid for p in multiprocessing.active_children() if workers)]
    for number in numbers:
        for process in reversed(processes):
            os.kill(process, number)
        time.sleep(1.5 if len(numbers) > 1 else 0.3)


def main(cfg, resume=False, kill=None, iteration=None, operation=None, signals=(), workers=False):
    """
    Args:
        kill: "step": before the weights change, "save": before a checkpoint is written, "write": in
            the middle of that, "tag": after it, before it counts as the last; None: nowhere.
        iteration: in which to be killed, or to get ``signals`` before the weights change; None:
            before the first one.
        operation: number of the change to a file before which to be killed.
        workers: whether the signals come to the loader's workers as well.
    """
    torch.set_num_threads(1)
    # A process of a fork server would start its loader's workers there, and they would outlive it.
    multiprocessing.set_start_method("fork", force=True)
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    # A record of every iteration, so that none can be lost unseen.
    trainer.WRITE_PERIOD = metrics.WRITE_PERIOD = 1
    check_datasets(cfg)
    if operation is not None:
        kill_at_operation(cfg.OUTPUT_DIR, operation)
    mutual = MutualTrainer(cfg)
    mutual.resume_or_load(resume)

    places = {
        "step": (mutual.optimizer, "step", kill_now),
        "save": (mutual.checkpointer, "save", kill_now),
        "write": (torch, "save", kill_mid_write),
        "tag": (run_folder, "mark_last", kill_now),
    }
    if kill is not None:
        owner, name, act = places[kill]
        original = getattr(owner, name)

        def killing(*args, **kwargs):
            return (act if mutual.iter == iteration else original)(*args, **kwargs)

        setattr(owner, name, killing)
    if signals:
        owner, name = (mutual, "prepare") if iteration is None else (mutual.optimizer, "step")
        act = getattr(owner, name)

        def asked(*args):
            if name == "prepare" or mutual.iter == iteration:
                ask(signals, workers)
            return act(*args)

        setattr(owner, name, asked)
    mutual.train()


main(**JOB)  # noqa: F821 (set by runpy)
