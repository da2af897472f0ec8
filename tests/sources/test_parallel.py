import subprocess
import sys
from pathlib import Path


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
