from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# in a process of its own: the setting stays, and nothing else may page in the meantime
PAGED_IN = """
import resource, sys
import numpy as np
from lungtl.settings import command_line
from lungtl.settings.allocator import keep_freed_memory
from lungtl.settings.schema import SyncConfig
def measure(config=None):
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(2**26, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
kind = sys.argv[1]
if kind == "library":
    import lungtl.models.backbones.timm_backbone
elif kind == "command":
    del sys.argv[1]
    command_line.main("sync", SyncConfig, measure)
elif not keep_freed_memory():
    sys.exit(3)
if kind != "command":
    measure()
"""


def paged_in(*arguments: str) -> int:
    """Page faults of the ninth array of 64 MB, each freed before the next is made."""
    command = [sys.executable, "-c", PAGED_IN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this C library has no such setting")
    return int(done.stdout)


def test_what_was_freed_is_not_paged_in_again() -> None:
    assert paged_in("kept") < 16


def test_commands_keep_it_and_the_library_leaves_the_process_as_it_is(tmp_path: Path) -> None:
    paged_in("kept")  # skips
    assert paged_in("command", f"data_dir={tmp_path}") < 16
    assert paged_in("library") > 16  # huge pages of 2 MB would still be 32
