"""A function run by several processes that can talk to each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes


def together(folder: Path, task: Callable[[int], Any], processes: int = 2) -> list[Any]:
    """What `task(rank)` gives in each of them, tensors and what is made of them; the folder is for this call alone."""
    start_processes(_run, (folder, task, processes), nprocs=processes, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _run(rank: int, folder: Path, task: Callable[[int], Any], processes: int) -> None:
    torch.set_num_threads(1)  # a forked process cannot use its parent's threads
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save(task(rank), folder / f"{rank}.pt")
    distributed.barrier()  # a process that ends at once would cut off one that is not connected yet
    distributed.destroy_process_group()
