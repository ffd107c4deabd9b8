"""Exchange among processes that work together: errors, the first weights, gradients of a step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from .compat import default_store, foreach_copy_
from .config import ConfigError, flattened
from .errors import UserError

T = TypeVar("T")

# Seconds between two looks at whether the first process is done.
POLL_PERIOD = 0.2
_waits, _stores = itertools.count(), itertools.count()


class SharedError(UserError):
    """A UserError of one process, raised in all of them."""


@contextmanager
def sharing_errors() -> Iterator[None]:
    """
    Raise a UserError of one process in all of them; all processes enter and leave together.

    What is inside must not wait for the other processes, one of which may have left with an error.

    Raises:
        SharedError: with the message of the first process that has one; in a process that trains
            alone, its own error stays.
    """
    if comm.get_world_size() == 1:
        yield
        return
    message = None
    try:
        yield
    except UserError as error:
        message = str(error)
    for shared in comm.all_gather(message):
        if shared is not None:
            raise SharedError(shared)


def from_first_process(work: Callable[[], T]) -> T:
    """Do ``work``, however long, in the first process, and return in all of them what it gives."""
    result = None
    with sharing_errors():
        try:
            if comm.is_main_process():
                result = work()
        finally:
            wait_for_first()
    return comm.all_gather(result)[0]


def check_same(configs: Sequence[CfgNode]) -> None:
    """ConfigError, naming the key, if the configs of two ranks differ."""
    flat = [flattened(cfg) for cfg in configs]
    for rank, values in enumerate(flat):
        for key in sorted(values.keys() | flat[0].keys()):
            mine, first = values.get(key), flat[0].get(key)
            if mine != first:
                raise ConfigError(
                    f"{key} is {mine!r} on rank {rank} and {first!r} on rank 0; expected one "
                    "value. Give every machine the same command, and the same file."
                )


def wait_for_first() -> None:
    """
    Wait, in every other process, until the first one comes here: however long it works alone.

    A collective would time out, and keep a GPU or a core busy.
    """
    if comm.get_world_size() == 1:
        return
    # Every process waits as often as the others.
    key = f"first_came/{next(_waits)}"
    store = default_store()
    if comm.is_main_process():
        store.set(key, "")
    else:
        while not store.check([key]):
            time.sleep(POLL_PERIOD)


class Team:
    """
    The processes that do a piece of work: this one alone, or all that were started together.

    Args:
        together: whether all of them are here and divide the work.

    Attributes:
        size, rank: how many there are, and which of them this is.
    """

    def __init__(self, together: bool = False) -> None:
        self.size = comm.get_world_size() if together else 1
        self.rank = comm.get_rank() if together else 0

    def sharing_errors(self) -> AbstractContextManager[None]:
        """See :func:`sharing_errors`."""
        return nullcontext() if self.size == 1 else sharing_errors()

    def from_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the first process, and return in all of them what it gives."""
        return work() if self.size == 1 else from_first_process(work)

    def from_all(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        return [value] if self.size == 1 else comm.all_gather(value)

    def store(self) -> dist.Store:
        """A new store that they share; all of them ask for it equally often."""
        if self.size == 1:
            return dist.HashStore()
        return dist.PrefixStore(f"team/{next(_stores)}", default_store())


def broadcast_weights(model: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if comm.get_world_size() > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, src=0)


@dataclass
class StepFacts:
    """
    Facts of a step that all processes know before its gradients are reduced.

    Attributes:
        losses: their means over the processes; not finite in all if not finite in one.
        num_skipped: images that they left out together.
        used: of each parameter, whether any process has a gradient.
    """

    losses: list[float]
    num_skipped: int
    used: list[bool]


def exchange_facts(losses: Tensor, num_skipped: int, parameters: Sequence[Tensor]) -> StepFacts:
    """
    Exchange the facts of a step, in one small reduction.

    Args:
        losses: (L,), the same ones in the same order in all processes.
        num_skipped: images that this process left out.
        parameters: of the model, with the gradients of this process.
    """
    used = [parameter.grad is not None for parameter in parameters]
    world_size = comm.get_world_size()
    if world_size == 1:
        return StepFacts(losses.tolist(), num_skipped, used)
    packed = torch.cat((losses / world_size, losses.new_tensor([num_skipped, *used])))
    dist.all_reduce(packed)
    means, (num_skipped, *counts) = packed[: len(losses)].tolist(), packed[len(losses) :].tolist()
    return StepFacts(means, int(num_skipped), [count > 0 for count in counts])


def reduce_gradients(parameters: Sequence[Tensor], used: Sequence[bool]) -> None:
    """
    Average the gradients over all processes, in one reduction per type of number.

    Args:
        used: of each parameter, whether any process has a gradient. The others keep none, so that
            an optimiser leaves them alone, as it does in one process.

    A parameter that only this process did not use counts as a gradient of 0, so that all processes
    reduce the same tensors: one may have seen no foreground, another no instance. The gradients
    become parts of one tensor.
    """
    world_size = comm.get_world_size()
    if world_size == 1:
        return
    parameters = list(itertools.compress(parameters, used))
    for dtype in sorted({parameter.dtype for parameter in parameters}, key=str):
        alike = [parameter for parameter in parameters if parameter.dtype == dtype]
        flat = torch.empty(sum(p.numel() for p in alike), dtype=dtype, device=alike[0].device)
        start, parts = 0, []
        for parameter in alike:
            # In the parameter's own layout, in which the optimiser is fastest.
            parts.append(flat.as_strided(parameter.shape, parameter.stride(), start))
            start += parameter.numel()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
        foreach_copy_(parts, gradients)
        dist.all_reduce(flat)
        flat /= world_size
        for parameter, part in zip(alike, parts, strict=True):
            parameter.grad = part
