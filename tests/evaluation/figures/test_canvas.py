from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from lungtl.evaluation.figures import confusion, save


def test_the_png_is_800_pixels_wide_and_the_same_each_time(tmp_path: Path) -> None:
    first = save(confusion([0, 1], [0.2, 0.8]), tmp_path / "new" / "a.png")
    second = save(confusion([0, 1], [0.2, 0.8]), str(tmp_path / "b.png"))
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert image.width == 800
        # No text chunk: neither a time nor matplotlib's version, which would make equal figures differ.
        assert set(image.info) <= {"dpi"}


def test_drawing_needs_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys; from lungtl.evaluation import controls, figures, document;"
        "figures.confusion([0, 1], [0.2, 0.8]);"
        "heavy = {'matplotlib.pyplot', 'torch', 'mlflow', 'hydra', 'pytorch_lightning'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
