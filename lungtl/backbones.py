"""`python -m lungtl.backbones`: the preconfigured backbones, their cost, and the source of their weights."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lungtl.settings import command_line
from lungtl.settings.errors import UsageError
from lungtl.settings.folders import conf_dir


@dataclass(frozen=True)
class Row:
    """A config of conf/backbone/."""

    backbone: str  # name of the config
    model: str  # timm's name
    parameters: int  # of the network without its ImageNet classifier
    macs: int  # multiply-accumulates per image of `input_size`, in convolutions, linear layers and attention
    last: int  # size of the embedding with features=last
    stages: int | None  # likewise with features=stages; None if timm cannot split the network
    input_size: int  # height and width in pixels that it was trained with
    weights: str  # the resolved backbone.weights
    here: bool  # whether they are on this machine
    licence: str  # of the weights, as stated by timm; "" if it is not


def ready_backbones() -> Iterator[Row]:
    """Describe all configs by name, without network access or loading weights."""
    for path in sorted((conf_dir() / "backbone").glob("*.yaml")):
        yield describe(path)


def describe(path: Path) -> Row:
    """Describe the backbone of a config; raises UsageError if timm has no such model."""
    import torch
    from omegaconf import OmegaConf
    from torch.utils.flop_counter import FlopCounterMode

    from lungtl.models.backbones.timm_backbone import TimmBackbone
    from lungtl.models.backbones.weights import are_available_offline, resolve_weights

    config = OmegaConf.load(path)
    name, weights = str(config.name), resolve_weights(str(config.weights), str(config.name).partition(".")[0])
    with torch.device("meta"), torch.no_grad():  # shapes only: nothing is allocated or computed
        backbone = TimmBackbone(name, "none").eval()
        with FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, backbone.input_size, backbone.input_size))
        try:
            stages = TimmBackbone(name, "none", "stages").dim
        except UsageError:
            stages = None
    return Row(
        path.stem,
        name,
        sum(parameter.numel() for parameter in backbone.parameters()),
        counter.get_total_flops() // 2,
        backbone.dim,
        stages,
        backbone.input_size,
        weights,
        are_available_offline(name, weights),
        backbone.net.pretrained_cfg.get("license") or "",  # type: ignore[union-attr, operator]
    )


def print_table(rows: list[Row]) -> None:
    """Print to standard output."""
    from rich.console import Console
    from rich.table import Table

    from lungtl.models.backbones.lite_wheel import WHEELS, requirement

    table = Table(caption="without the ImageNet classifier; MACs per image of the input size")
    for column in ("backbone", "timm model"):
        table.add_column(column, no_wrap=True)
    for column in ("params", "MACs", "last", "stages", "input"):
        table.add_column(column, justify="right")
    for column in ("weights", "licence"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row.backbone, row.model, f"{row.parameters / 1e6:.1f} M", f"{row.macs / 1e9:.2f} G", str(row.last),
            str(row.stages or "-"), str(row.input_size), f"{row.weights}, {'here' if row.here else 'not here'}",
            row.licence or "unknown",
        )  # fmt: skip
    console = Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for row in rows:
        architecture = row.model.partition(".")[0]
        if architecture in WHEELS and not row.here:
            console.print(f"{row.backbone} from PyPI: pip install {requirement(architecture)}", highlight=False)


def main() -> None:
    """Print the table, or CSV."""
    parser = argparse.ArgumentParser(
        prog="python -m lungtl.backbones", description="List the preconfigured backbones (conf/backbone/*.yaml)."
    )
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    arguments = parser.parse_args()
    rows = list(ready_backbones())
    if not arguments.csv:
        print_table(rows)
        return
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    command_line.plain(main)
