"""
One of several processes that normalise together, started through runpy with the global JOB.

Each writes what it found in every case to ``<folder>/rank<rank>.pth``.
"""

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from mutualnet_det.slimmable import Channels, SlimmableBatchNorm2d, at_width, share_statistics


def run(case, rank):
    norm = SlimmableBatchNorm2d(Channels(16))
    norm.load_state_dict(case["state"])
    norm.train()
    share_statistics(norm)
    x = case["inputs"][rank].clone().requires_grad_()
    with at_width(norm, case["width"]):
        run = norm
        if case["recomputes"]:

            def run(x):
                return checkpoint(norm, x, use_reentrant=case["recomputes"] == "reentrant")

        y = run(x)
        (y * case["weights"][rank]).sum().backward()
    return {
        "output": y.detach(),
        "input_gradient": x.grad,
        "weight_gradient": norm.weight.grad,
        "bias_gradient": norm.bias.grad,
        "state": norm.state_dict(),
    }


def main(rank, world_size, folder, cases):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    torch.save([run(case, rank) for case in cases], f"{folder}/rank{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


main(**JOB)  # noqa: F821 (set by runpy)
