import subprocess
import sys
from pathlib import Path

import psutil


def test_script_without_main_guard(tmp_path: Path) -> None:
    """Worker processes do not run the user's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from lungtl.sources.parallel import parallel\n"
        "print('started', __file__)\n"
        "print(list(parallel(abs, [-1, 2], 2, 'testing')), __file__)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"started {script}", f"[1, 2] {script}"], done.stderr


def test_a_worker_ends_with_its_parent_though_another_process_holds_its_pipes(tmp_path: Path) -> None:
    """A parent that is killed cannot end its workers, and its other children keep their pipes open."""
    script = (
        "import os, sys, time\n"
        "from lungtl.settings.parent_process import PARENT, follow_named_parent\n"
        "os.environ[PARENT] = str(os.getpid())\n"
        "follow_named_parent()\n"  # nobody follows itself
        "if os.fork() == 0:\n"
        "    follow_named_parent()\n"
        "    print(os.getpid(), PARENT in os.environ, flush=True)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker, named = parent.stdout.readline().split()
        assert (named, psutil.pid_exists(int(worker))) == ("False", True)
        parent.kill()
    psutil.wait_procs([process] if (process := _process(int(worker))) else [], timeout=10)
    assert _process(int(worker)) is None


def _process(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None
