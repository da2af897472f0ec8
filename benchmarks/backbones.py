"""`python -m benchmarks.backbones > lungtl/backbones.csv`: what `lungtl backbones` lists of each preconfigured one."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from lungtl.models.backbones.lite_wheel import WHEELS
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.settings.errors import UsageError
from lungtl.settings.folders import conf_dir


def measure(path: Path) -> dict[str, str | int]:
    """Measure the backbone of a config; raises UsageError if timm has no such model."""
    name = str(OmegaConf.load(path).name)
    with torch.device("meta"), torch.no_grad():  # shapes only: nothing is allocated or computed
        backbone = TimmBackbone(name, "none").eval()
        with FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, backbone.input_size, backbone.input_size))
        try:
            stages: str | int = TimmBackbone(name, "none", "stages").dim
        except UsageError:
            stages = ""
    published = backbone.net.pretrained_cfg
    return {
        "backbone": path.stem,
        "model": name,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "macs": counter.get_total_flops() // 2,
        "last": backbone.dim,
        "stages": stages,
        "input_size": backbone.input_size,
        "licence": published.get("license") or "",  # type: ignore[union-attr, operator]
        "hub": published.get("hf_hub_id") or "",  # type: ignore[union-attr, operator]
        "wheel": WHEELS.get(name.partition(".")[0], ""),
    }


if __name__ == "__main__":
    rows = [measure(path) for path in sorted((conf_dir() / "backbone").glob("*.yaml"))]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
