from __future__ import annotations

import math
from pathlib import Path

from lungtl.runs.epochs import EPOCHS, append_epoch, read_epochs


def write(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        append_epoch(folder, epoch, {"lr": 0.1, "val/loss": 1 / (epoch + 3), "val/auroc": math.nan})


def test_epochs_are_read_back_exactly(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2)
    table = read_epochs(tmp_path)
    assert list(table) == ["epoch", "lr", "val/loss", "val/auroc"]
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["val/loss"].tolist() == [1 / 3, 1 / 4, 1 / 5]
    assert table["val/auroc"].isna().all()
    assert [path.name for path in tmp_path.iterdir()] == [EPOCHS]


def test_no_file_is_no_epochs(tmp_path: Path) -> None:
    assert len(read_epochs(tmp_path)) == 0
    assert "epoch" in read_epochs(tmp_path)


def test_a_repeated_epoch_replaces_its_row_and_later_ones(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2)
    append_epoch(tmp_path, 1, {"lr": 0.5, "val/loss": 7.0, "val/auroc": 0.25})
    table = read_epochs(tmp_path)
    assert table["epoch"].tolist() == [0, 1]
    assert table["val/loss"].tolist() == [1 / 3, 7.0]
    write(tmp_path, 0)
    assert read_epochs(tmp_path)["epoch"].tolist() == [0]


def test_a_metric_may_appear_later(tmp_path: Path) -> None:
    append_epoch(tmp_path, 0, {"val/loss": 1.0})
    append_epoch(tmp_path, 1, {"val/loss": 0.5, "new": 2.0})
    table = read_epochs(tmp_path)
    assert (math.isnan(table["new"][0]), table["new"][1]) == (True, 2.0)


def test_a_file_cut_off_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    whole = (tmp_path / EPOCHS).read_bytes()
    for size in range(len(whole)):
        (tmp_path / EPOCHS).write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        assert read_epochs(tmp_path)["epoch"].tolist() == list(range(lines - 1))
        write(tmp_path, max(0, lines - 1))
        assert read_epochs(tmp_path)["epoch"].tolist() == list(range(max(1, lines)))
