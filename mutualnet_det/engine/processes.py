"""
The processes of a training or an evaluation: started by Detectron2's ``launch``, or by torchrun.

Both set up PyTorch's process group and Detectron2's local one, and watch over the processes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing import ProcessExitedException

from ..compat import default_store
from ..config import ConfigError, check_no_gpu_named, check_num_gpus, load_config
from ..distributed import POLL_PERIOD, SharedError
from ..errors import UserError, reported
from ..signals import end_with_parent, passing_on_stop_signals
from .watch import watched

# What torchrun tells each process.
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# For a collective that not all come to. Where the others wait longer than this for the first
# process alone, they use distributed.wait_for_first.
TIMEOUT = timedelta(minutes=30)


def run_in_processes(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """
    Run ``main(args)`` in every process of a training or an evaluation.

    Under torchrun, that is this one; else as many are started as ``--num-gpus`` and
    ``--num-machines`` ask for: on the CPU if ``MODEL.DEVICE`` says so or there are no GPUs. A
    UserError ends them all with its message; so does the death of one of them.
    """
    if all(name in os.environ for name in ENVIRONMENT):
        _join(main, args)
    elif args.num_gpus * args.num_machines == 1:
        with reported():
            main(args)
    else:
        _launch(main, args)


def _launch(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    with reported():
        cfg = load_config(args.config_file, args.opts)
        check_num_gpus(args.num_gpus, cfg.MODEL.DEVICE)
        check_no_gpu_named(cfg)
    prepare_launch(cfg)
    try:
        # Whoever asks this process to end means the ones that train.
        with passing_on_stop_signals():
            launch(
                _launched,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args, share_threads(args.num_gpus)),
                timeout=TIMEOUT,
            )
    except ProcessExitedException as error:
        rank = args.machine_rank * args.num_gpus + error.error_index
        if error.signal_name is None:
            sys.exit(error.exit_code)  # it has said why
        # As newer and older torch call it.
        pid = next(getattr(error, key) for key in ("error_pid", "pid") if hasattr(error, key))
        sys.exit(
            f"error: rank {rank} (pid {pid}) was ended by {error.signal_name}. Add "
            "--resume to continue from what was kept."
        )


def prepare_launch(cfg: CfgNode) -> None:
    """Call before Detectron2's ``launch``, which takes NCCL wherever it sees a GPU."""
    if cfg.MODEL.DEVICE == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def share_threads(num_processes: int) -> int:
    """CPU threads for each of some processes, so that they do not trample each other."""
    return max(1, torch.get_num_threads() // num_processes)


def limit_threads(threads: int) -> None:
    """Have PyTorch use so many in this process, unless the user's environment says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)


def _launched(
    main: Callable[[argparse.Namespace], None], args: argparse.Namespace, threads: int
) -> None:
    # PyTorch has the system send SIGINT then, which in the background of a script is ignored.
    end_with_parent()
    limit_threads(threads)
    store = default_store()
    with _outcome(), watched(store, comm.get_rank(), comm.get_world_size()):
        _work(main, args)


def _join(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    rank, world_size, local_rank, local_size = (int(os.environ[name]) for name in ENVIRONMENT)
    store, *_ = next(rendezvous("env://", timeout=TIMEOUT))
    store = own_part(store, rank, world_size)
    with _outcome(), watched(store, rank, world_size):
        error, device = "", "cpu"
        try:
            device = _check_torchrun(args, local_size).MODEL.DEVICE
        except UserError as user_error:
            error = str(user_error)
        _end_together(store, rank, world_size, error)
        on_gpu = device != "cpu"
        if on_gpu:
            torch.cuda.set_device(local_rank)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            # What is in the store so far is not the group's.
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
        )
        comm.create_local_process_group(local_size)
        _work(main, args)


def own_part(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """
    The part of ``store`` that nobody but the processes that start now has used; they all call this.

    torchrun's store outlives them, and holds what those before a restart have left there. Its count
    of restarts does not tell them apart: it differs between machines, one of which may restart its
    processes because they ended, and the others theirs because that one came back.
    """
    store.set(f"here/{rank}", uuid.uuid4().hex)
    while True:
        here = [store.get(f"here/{other}") for other in range(world_size)]
        part = hashlib.sha256(b" ".join(here)).hexdigest()
        store.set(f"part/{rank}", part)
        # All have seen this process, which nothing from before has: so all of them are here now.
        if all(store.get(f"part/{other}").decode() == part for other in range(world_size)):
            return dist.PrefixStore(part, store)
        time.sleep(POLL_PERIOD)


def _check_torchrun(args: argparse.Namespace, local_size: int) -> CfgNode:
    if args.num_gpus * args.num_machines > 1:
        raise ConfigError(
            f"--num-gpus is {args.num_gpus} and --num-machines {args.num_machines}, but torchrun "
            "starts the processes already. Leave both out."
        )
    cfg = load_config(args.config_file, args.opts)
    check_no_gpu_named(cfg)
    available = torch.cuda.device_count()
    if cfg.MODEL.DEVICE != "cpu" and local_size > available:
        raise ConfigError(
            f"torchrun starts {local_size} processes on this machine, which has {available} GPUs. "
            f"Expected --nproc-per-node {available} at most, or MODEL.DEVICE cpu."
        )
    return cfg


def _end_together(store: dist.Store, rank: int, world_size: int, error: str) -> None:
    """End every process if one has an error; the first says which. There is no group yet."""
    store.set(f"start/{rank}", error)
    errors = [store.get(f"start/{other}").decode() for other in range(world_size)]
    if any(errors):
        sys.exit(f"error: {next(filter(None, errors))}" if rank == 0 else 1)


def _work(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    main(args)
    comm.synchronize()
    dist.destroy_process_group()


@contextmanager
def _outcome() -> Iterator[None]:
    """A UserError ends this process with its message; one of all processes is told by the first."""
    with reported():
        try:
            yield
        except SharedError:
            if comm.is_main_process():
                raise
            sys.exit(1)
