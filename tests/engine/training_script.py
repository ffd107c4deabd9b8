"""
A training in a process of its own, killed where the job says.

Started through runpy with the global JOB: the arguments of ``main``.
"""

import io
import multiprocessing
import os
import signal

import torch
from detectron2.utils.env import seed_all_rng

from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer, metrics, trainer


def kill_now(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_mid_write(content, path):
    """What a kill during torch.save leaves: the first half of the file."""
    buffer = io.BytesIO()
    written(content, buffer)
    with open(path, "wb") as file:
        file.write(buffer.getvalue()[: buffer.tell() // 2])
    kill_now()


written = torch.save


def main(cfg, resume=False, kill=None, iteration=None):
    """
    Args:
        kill: "step": before the weights change, "save": before a checkpoint is written, "write": in
            the middle of that, "tag": after it, before it counts as the last; None: nowhere.
        iteration: in which to be killed.
    """
    torch.set_num_threads(1)
    # A process of a fork server would start its loader's workers there, and they would outlive it.
    multiprocessing.set_start_method("fork", force=True)
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    # A record of every iteration, so that none can be lost unseen.
    trainer.WRITE_PERIOD = metrics.WRITE_PERIOD = 1
    check_datasets(cfg)
    mutual = MutualTrainer(cfg)
    mutual.resume_or_load(resume)

    places = {
        "step": (mutual.optimizer, "step", kill_now),
        "save": (mutual.checkpointer, "save", kill_now),
        "write": (torch, "save", kill_mid_write),
        "tag": (mutual.checkpointer, "tag_last_checkpoint", kill_now),
    }
    if kill is not None:
        owner, name, act = places[kill]
        original = getattr(owner, name)

        def killing(*args, **kwargs):
            return (act if mutual.iter == iteration else original)(*args, **kwargs)

        setattr(owner, name, killing)
    mutual.train()


main(**JOB)  # noqa: F821 (set by runpy)
