"""Several processes that train together, one a device: this one is the first, and starts the others.

Lightning's own launchers run the whole command once more for each device, which would make further run folders and
MLflow runs, or train in none but new processes, out of the tracker's reach.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore
from typing import Any, Literal

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from pytorch_lightning.strategies import DDPStrategy
from torch import multiprocessing
from torch.multiprocessing.spawn import spawn

from lungtl.settings.allocator import keep_freed_memory
from lungtl.settings.errors import LungtlError

GRACE = 5.0  # seconds in which a process that failed can say so
POLL = 0.2  # seconds between two looks at processes that start


class Place(LightningEnvironment):
    """Where a process stands among those that train together on this machine.

    Args:
        rank: 0 is the process that the user started.
        port: where the first process waits for the others; None finds a free one.
    """

    def __init__(self, rank: int = 0, port: int | None = None) -> None:
        super().__init__()
        self.rank = rank
        self.port = port or find_free_network_port()

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self.port

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0


def strategy(count: int, place: Place) -> DDPStrategy | Literal["auto"]:
    """How Lightning trains on so many devices.

    A batch may use none of a head's parameters (`slice_weight=0`), and buffers need no copying: what
    `lungtl.models.slice_projection` counts is the same everywhere.
    """
    if count == 1:
        return "auto"
    return DDPStrategy(cluster_environment=place, find_unused_parameters=True, broadcast_buffers=False)


@contextmanager
def others(count: int, place: Place, task: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """While the body runs, run `task(*arguments, place)` in the other processes.

    Args:
        count: of all processes; 1 starts none.
        place: of this one; only the first starts any.
        task: can be imported.
        arguments: are pickled.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of the others failed; with its traceback.
    """
    if count == 1 or place.rank > 0:
        yield
        return
    # bytes: torch would put the parameters into memory that all processes share
    content = pickle.dumps((task, arguments))
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    torch.set_num_threads(share)
    ready = multiprocessing.get_context("spawn").Semaphore(0)
    context = spawn(
        _run,
        (content, ready, place.port, torch.initial_seed(), share, multiprocessing.get_start_method()),
        nprocs=count - 1,
        join=False,
    )
    try:
        for _ in range(count - 1):  # the first one would wait for ever for one that dies before they meet
            while not ready.acquire(timeout=POLL):
                context.join(0)
        yield
        while not context.join():
            pass
    except LungtlError:  # says what is wrong; the others found the same
        raise
    except Exception:
        context.join(GRACE)  # when another process failed first: its error instead
        raise
    finally:
        for process in context.processes:
            process.kill()  # Lightning lets no process heed SIGTERM in the middle of a batch
            process.join()
        if torch.distributed.is_initialized():  # a sweep's next run makes its own
            torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)


def _run(index: int, content: bytes, ready: Semaphore, port: int, seed: int, threads: int, start_method: str) -> None:
    keep_freed_memory()
    # of loader processes: spawned, as this one is, each would import torch anew, in every epoch
    multiprocessing.set_start_method(start_method, force=True)
    torch.set_num_threads(threads)
    place = Place(index + 1, port)
    torch.manual_seed(seed + place.rank)  # of dropout
    task, arguments = pickle.loads(content)  # noqa: S301  # from the process that started this one
    ready.release()
    task(*arguments, place)
    torch.distributed.destroy_process_group()
