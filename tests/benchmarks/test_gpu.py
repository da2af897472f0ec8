from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import gpu


@pytest.mark.exhaustive
def test_on_a_cpu_at_a_tiny_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # the phantom is not written by processes of its own
    scale = gpu.Scale(backbones=("resnet18",), pixels=32, scans=8, bags=1, slices=3, warm_up=1, steps=1, repeats=1)
    fine_tuning, frozen_pass = gpu.compare(scale, torch.device("cpu"))
    assert fine_tuning["what"] == "fine-tuning in bfloat16, resnet18, 32 px"
    assert float(fine_tuning["images_per_second"]) == pytest.approx(
        3 / float(fine_tuning["seconds"]), rel=0.05, abs=0.5
    )
    assert frozen_pass["what"] == "frozen pass over a store, resnet18, 32 px"
    for row, target in ((fine_tuning, "0.9"), (frozen_pass, "0.85")):
        assert (row["device"], row["torch"], row["target"]) == ("cpu", torch.__version__, target)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no CUDA device; run make bench-gpu"):
        gpu.main()


def test_the_readme_says_what_was_measured() -> None:
    root = Path(gpu.__file__).parents[1]
    table = pd.read_csv(root / "benchmarks" / "gpu.csv")
    found = [f"{ratio:.2f}".removeprefix("0") for ratio in table.sort_values("what")["ratio"]]
    said = re.search(r"On an\s+(\w+),? fine-tuning .*?\[gpu\.csv\]", (root / "README.md").read_text(), re.DOTALL)
    assert said is not None
    assert re.findall(r"\.\d\d\b", said[0]) == found  # fine-tuning, then the pass; of each resnet50, then vit_small
    assert table["device"].str.contains(said[1]).all()
    assert (table["ratio"] >= table["target"]).all()
