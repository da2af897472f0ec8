from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


@pytest.mark.slow
def test_on_a_cpu_at_a_tiny_scale() -> None:
    scale = gpu.Scale(backbones=("resnet18",), pixels=32, scans=12, bags=1, slices=3, warm_up=1, steps=4, repeats=1)
    fine_tuning, frozen_pass = gpu.compare(scale, torch.device("cpu"))
    assert fine_tuning["what"] == "fine-tuning in bfloat16, resnet18, 32 px"
    assert float(fine_tuning["images_per_second"]) == pytest.approx(
        3 / float(fine_tuning["seconds"]), rel=0.05, abs=0.5
    )
    assert frozen_pass["what"] == "frozen pass over a store, resnet18, 32 px"
    for row, wanted in ((fine_tuning, "0.9"), (frozen_pass, "0.85")):
        assert (row["device"], row["torch"], row["wanted"]) == ("cpu", torch.__version__, wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no CUDA device here; run make bench-gpu where there is one"):
        gpu.main()
