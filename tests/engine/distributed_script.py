"""
One of several processes that train together, started through runpy with the global JOB.

Each writes what it found to ``<folder>/rank<rank>.pth``.
"""

import multiprocessing

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.engine.distributed import broadcast_weights, reduce_gradients


def reduction(rank):
    """Gradients of three parameters before and after; the second is used by rank 0 alone."""
    parameters = [nn.Parameter(torch.zeros(*shape)) for shape in ((2, 3), (4,), (1, 2, 2))]
    generator = torch.Generator().manual_seed(rank)
    for number, parameter in enumerate(parameters):
        if number != 1 or rank == 0:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    reduce_gradients(parameters)
    return {"before": before, "after": [p.grad for p in parameters]}


def broadcast(rank):
    """Weights and running statistics after rank 0 gave its own to all."""
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[1].running_mean += rank + 1
    broadcast_weights(model)
    return model.state_dict()


def training(rank, cfg):
    """A whole training; each process begins with weights of its own, as Detectron2 seeds them."""
    seed_all_rng(cfg.SEED + rank)
    check_datasets(cfg)
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load()
    batches = []
    run_step = trainer.run_step

    def watch():
        trainer._batches, here = _peeked(trainer._batches)
        batches.append([item["image_id"] for item in here])
        run_step()

    trainer.run_step = watch
    trainer.train()
    parameters = {name: p.detach() for name, p in trainer.model.named_parameters()}
    return {"parameters": parameters, "batches": batches}


def _peeked(iterator):
    first = next(iterator)

    def whole():
        yield first
        yield from iterator

    return whole(), first


def main(rank, world_size, folder, cfg):
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    found = {
        "reduction": reduction(rank),
        "broadcast": broadcast(rank),
        "training": training(rank, cfg),
    }
    torch.save(found, f"{folder}/rank{rank}.pth")
    comm.synchronize()
    dist.destroy_process_group()


main(**JOB)  # noqa: F821 (set by runpy)
