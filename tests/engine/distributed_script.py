"""
One of several processes that train together, started through runpy with the global JOB.

Each writes what it found to ``<folder>/rank<rank>.pth``.
"""

import multiprocessing

import torch
import torch.distributed as dist
from detectron2.modeling.proposal_generator import proposal_utils
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from mutualnet_det.data.coco import check_datasets
from mutualnet_det.distributed import (
    SharedError,
    broadcast_weights,
    exchange_facts,
    from_first_process,
    reduce_gradients,
    sharing_errors,
)
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.errors import UserError


def reduction(rank):
    """Gradients of three parameters before and after; the second is used by rank 0 alone."""
    parameters = [nn.Parameter(torch.zeros(*shape)) for shape in ((2, 3), (4,), (1, 2, 2))]
    generator = torch.Generator().manual_seed(rank)
    for number, parameter in enumerate(parameters):
        if number != 1 or rank == 0:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    parameters.append(nn.Parameter(torch.zeros(3)))  # used by nobody
    facts = exchange_facts(torch.tensor([1.0, 3.0]) * (rank + 1), rank, parameters)
    reduce_gradients(parameters, facts.used)
    return {
        "before": before,
        "after": [p.grad for p in parameters],
        "losses": facts.losses,
        "num_skipped": facts.num_skipped,
    }


def broadcast(rank):
    """Weights and running statistics after rank 0 gave its own to all."""
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[1].running_mean += rank + 1
    broadcast_weights(model)
    return model.state_dict()


def errors(rank):
    """Messages of errors that only the second process has, and only the first one."""
    messages = []
    for failing in (1, 0):
        try:
            with sharing_errors():
                if rank == failing:
                    raise UserError(f"rank {rank} fails")
        except SharedError as error:
            messages.append(str(error))
    with sharing_errors():  # nothing is left of them
        pass
    return messages


def of_first(rank):
    """The rank that has done the work."""
    return from_first_process(lambda: f"rank {rank}")


def step(cfg):
    """The first weights and what the gradients of one step are, in float64."""
    torch.set_default_dtype(torch.float64)
    batched_nms = proposal_utils.batched_nms  # of float32 alone
    proposal_utils.batched_nms = lambda boxes, scores, *rest: batched_nms(
        boxes, scores.float(), *rest
    )
    torch.manual_seed(0)
    trainer = MutualTrainer(cfg)
    trainer.prepare(0)
    trainer.optimizer.step = lambda: None
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.run_step()
    torch.set_default_dtype(torch.float32)
    proposal_utils.batched_nms = batched_nms
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    return {"weights": weights, "gradients": gradients, "state": trainer.model.state_dict()}


def training(rank, cfg):
    """A whole training; each process begins with weights of its own, as Detectron2 seeds them."""
    seed_all_rng(cfg.SEED + rank)
    check_datasets(cfg)
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load()
    batches = []
    train_on = trainer.train_on

    def watch(batch):
        batches.append([item["image_id"] for item in batch])
        train_on(batch)

    trainer.train_on = watch
    trainer.train()
    parameters = {name: p.detach() for name, p in trainer.model.named_parameters()}
    return {"parameters": parameters, "batches": batches}


def main(rank, world_size, folder, cfg, step_cfg):
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    results = {
        "step": step(step_cfg),
        "errors": errors(rank),
        "of_first": of_first(rank),
        "reduction": reduction(rank),
        "broadcast": broadcast(rank),
        "training": training(rank, cfg),
    }
    torch.save(results, f"{folder}/rank{rank}.pth")
    comm.synchronize()
    dist.destroy_process_group()


main(**JOB)  # noqa: F821 (set by runpy)
