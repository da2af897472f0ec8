"""Killed or concurrent preparations: the same store, and no finished bag is loaded twice."""

from __future__ import annotations

import itertools
import logging
import os
import random
import select
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.data.store.writer import prepare
from tests.data.store.made import Made, NotedDicom, content, noted, store_folder, undisturbed
from tests.data.store.processes import PATIENCE_S, Preparation, wait_until
from tests.dicom_files import UID, write_series

WAITS = "is being prepared by another process; waiting for it"


def dicom(tmp_path: Path, series: int) -> NotedDicom:
    root, table = tmp_path / "scans", tmp_path / "labels.csv"
    noise = np.random.default_rng(0)
    for k in range(series):
        write_series(root / str(k), [0, 2.5, 5], noise.integers(0, 2000, (3, 16, 16), np.int16), uid=f"{UID}.{k}")
    (root / "broken.dcm").touch()
    rows = "".join(f"{UID}.{k},p{k},{k % 2}\n" for k in range(series))
    table.write_text(f"series_uid,patient_id,label\n{rows}")
    return NotedDicom(str(root), str(table), diary=str(tmp_path / "diary"))


def loaded_again(diary: str) -> int:
    """Number of loads beyond one per bag."""
    loads = Counter(line for line in noted(diary) if line.startswith("load"))
    return sum(count - 1 for count in loads.values())


def duration(source: NotedDicom, data_dir: Path, workers: int) -> float:
    """Seconds of an undisturbed preparation."""
    preparation = Preparation(source, data_dir, workers)
    assert preparation.result() == str(store_folder(data_dir))
    return time.monotonic() - preparation.begun


@pytest.mark.exhaustive
@pytest.mark.parametrize(("workers", "kills"), [(1, 24), (2, 6)])
def test_killed_at_random_moments(tmp_path: Path, workers: int, kills: int) -> None:
    source = dicom(tmp_path, series=10)
    seconds = min(duration(source, tmp_path / name, workers) for name in ("whole", "warm"))  # the first is slower
    expected = content(store_folder(tmp_path / "whole"))
    assert len(expected) == 4 + 10
    moments = random.Random(workers)
    unfinished = 0
    for kill in range(kills):
        Path(source.diary).unlink()
        data_dir = tmp_path / str(kill)
        preparation = Preparation(source, data_dir, workers)
        time.sleep(moments.uniform(0, seconds))
        preparation.kill()
        unfinished += not any(data_dir.glob("stores/*/manifest.json"))
        store = prepare(source, data_dir)
        assert content(store.path) == expected
        assert loaded_again(source.diary) <= workers
        assert not list(data_dir.rglob("*.tmp"))
    assert unfinished > kills // 4  # otherwise the kills came too late


@pytest.mark.slow
def test_killed_at_every_file_operation(tmp_path: Path) -> None:
    options: dict[str, Any] = {"ids": ("bag-00", "bag-01", "bag-02"), "refused": ("bag-02",), "at_sight": ("x",)}
    expected = undisturbed(tmp_path, **options)
    for step in itertools.count():
        source = Made(str(tmp_path / f"diary-{step}"), **options)
        data_dir = tmp_path / f"data-{step}"
        was_killed = Preparation(source, data_dir, kill_at=step).result() is None
        assert content(prepare(source, data_dir).path) == expected
        assert loaded_again(source.diary) <= was_killed
        assert not list(data_dir.rglob("*.tmp"))
        if not was_killed:
            break
    assert step > 25  # at least two operations per file, and the folders


def test_killed_again_and_again(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"), seconds=0.01)
    for bags in (2, 5, 6, 11):
        preparation = Preparation(source, tmp_path)
        wait_until(lambda bags=bags: len(set(noted(source.diary))) > bags)  # type: ignore[misc]
        preparation.kill()
    assert content(prepare(source, tmp_path).path) == undisturbed(tmp_path)
    assert loaded_again(source.diary) <= 4


def test_the_lock_of_a_killed_process_does_not_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Made(str(tmp_path / "diary"), seconds=0.05)
    preparation = Preparation(source, tmp_path)
    wait_until(lambda: len(noted(source.diary)) > 3)
    preparation.kill()
    assert len(list((tmp_path / "stores").rglob("*.lock"))) == 2
    prepare(Made(str(tmp_path / "diary")), tmp_path)
    assert WAITS not in caplog.text


def test_a_second_process_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Made(str(tmp_path / "diary"), seconds=0.05)
    preparation = Preparation(first, tmp_path)
    wait_until(lambda: len(noted(first.diary)) > 1)
    second = Made(str(tmp_path / "second-diary"))
    with caplog.at_level(logging.WARNING):
        store = prepare(second, tmp_path)
    assert f"made {WAITS}" in caplog.text
    assert preparation.result() == str(store.path)
    assert noted(second.diary) == []
    assert content(store.path) == undisturbed(tmp_path)


def test_a_second_process_with_another_copy_of_the_data_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Made(str(tmp_path / "diary"), seconds=0.05)
    preparation = Preparation(first, tmp_path)
    wait_until(lambda: len(noted(first.diary)) > 1)
    second = Made(str(tmp_path / "second-diary"), place="elsewhere")
    with caplog.at_level(logging.WARNING):
        store = prepare(second, tmp_path)
    assert f"{store.name} {WAITS}" in caplog.text
    assert preparation.result() == str(store.path)
    assert noted(second.diary) == ["inventory"]


def test_processes_that_start_together_share_the_work(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"), seconds=0.01)
    preparations = [Preparation(source, tmp_path) for _ in range(3)]
    assert len({preparation.result() for preparation in preparations}) == 1
    assert sorted(noted(source.diary)) == sorted(["inventory", *(f"load bag-{k:02d}" for k in range(12))])
    assert content(store_folder(tmp_path)) == undisturbed(tmp_path)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    preparation = Preparation(Made(str(tmp_path / "diary"), alive=str(pipe), seconds=0.05), tmp_path, workers=2)
    assert select.select([reader], [], [], PATIENCE_S)[0]
    assert os.read(reader, 1) == b"."
    preparation.kill_parent()
    try:
        wait_until(lambda: is_closed(reader))
    finally:
        os.close(reader)
        preparation.kill()


def is_closed(pipe: int) -> bool:
    """True if no process has it open for writing."""
    try:
        return os.read(pipe, 100) == b""
    except BlockingIOError:
        return False
