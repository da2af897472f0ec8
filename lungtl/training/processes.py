"""Start the further ranks of DDP training; this process, which holds the tracker and the Hydra job, is rank 0.

Lightning's own launchers cannot do that: `ddp` runs the whole command again for each rank (more run folders and MLflow
runs), and `ddp_spawn` and `ddp_fork` train in child processes only, so that nothing their callbacks log or decide
reaches this process.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore
from typing import Any, Literal

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import multiprocessing
from torch.multiprocessing.spawn import spawn

from lungtl.settings.allocator import keep_freed_memory
from lungtl.settings.errors import LungtlError
from lungtl.settings.parent_process import follow_parent
from lungtl.sources.parallel import main_hidden

GRACE = 5.0  # seconds for a failed process to report its error
POLL = 0.2  # seconds between two checks of starting processes


class StartedRanks(LightningEnvironment):
    """Lightning's environment of one machine, whose processes `further_ranks` starts."""

    @property
    def creates_processes_externally(self) -> bool:
        return True


def strategy(devices: int, environment: LightningEnvironment) -> DDPStrategy | Literal["auto"]:
    """Lightning's strategy for a number of devices."""
    if devices == 1:
        return "auto"
    # a batch may leave a head without gradient (`slice_weight=0`); `lungtl.models.collectives` keeps buffers equal
    return DDPStrategy(cluster_environment=environment, find_unused_parameters=True, broadcast_buffers=False)


@contextmanager
def further_ranks(
    devices: int, environment: LightningEnvironment, task: Callable[..., object], *arguments: Any
) -> Iterator[None]:
    """While the body runs as rank 0, run `task(*arguments)` in a process for each further rank.

    `devices` is the number of ranks; 1 starts none, and neither does a process of a rank above 0. The task is imported
    and its arguments are pickled. Raises ProcessRaisedException of torch, with the traceback of a rank that failed.
    """
    if devices == 1 or environment.local_rank() > 0:
        yield
        return
    content = pickle.dumps((os.getpid(), task, arguments))  # bytes: torch would move tensors to shared memory
    threads = torch.get_num_threads()
    threads_each = max(1, threads // devices)
    torch.set_num_threads(threads_each)
    ready = multiprocessing.get_context("spawn").Semaphore(0)
    with main_hidden():
        start_method = multiprocessing.get_start_method()
        rank_arguments = (content, ready, environment.main_port, torch.initial_seed(), threads_each, start_method)
        context = spawn(_run_rank, rank_arguments, nprocs=devices - 1, join=False)
    try:
        for _ in range(devices - 1):  # rank 0 would wait forever for a rank that fails before they connect
            while not ready.acquire(timeout=POLL):
                context.join(0)
        yield
        while not context.join():
            pass
    except LungtlError:  # all ranks raise the same
        raise
    except Exception:
        context.join(GRACE)  # raises another rank's error, if it failed first
        raise
    finally:
        for process in context.processes:
            process.kill()  # Lightning blocks SIGTERM within a batch
            process.join()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.pop("MASTER_PORT", None)  # set by Lightning; a sweep's next run takes a free port again
        torch.set_num_threads(threads)


def _run_rank(
    index: int, content: bytes, ready: Semaphore, port: int, seed: int, threads: int, start_method: str
) -> None:
    keep_freed_memory()
    # loader processes must not inherit "spawn": each would import torch in every epoch
    multiprocessing.set_start_method(start_method, force=True)
    torch.set_num_threads(threads)
    os.environ.update(LOCAL_RANK=str(index + 1), MASTER_PORT=str(port))
    torch.manual_seed(seed + index + 1)  # each rank has its own dropout
    parent, task, arguments = pickle.loads(content)  # noqa: S301  # from the process that started this one
    follow_parent(parent)
    ready.release()
    task(*arguments)
    torch.distributed.destroy_process_group()
