"""
One of two processes that train together; the second is asked to stop. Started with the global JOB.

Each writes the last iteration it has done to ``<folder>/stopped<rank>``.
"""

import multiprocessing
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm

from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer


def main(rank, world_size, folder, cfg):
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    check_datasets(cfg)
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load()
    step = trainer.optimizer.step

    def stepping():
        step()
        if rank == 1 and trainer.iter == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    trainer.optimizer.step = stepping
    try:
        trainer.train()
    finally:
        Path(folder, f"stopped{rank}").write_text(str(trainer.iter))


main(**JOB)  # noqa: F821 (set by runpy)
