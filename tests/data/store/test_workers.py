"""Worker processes and their failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError
from tests.data.store.made import Made, content, noted, undisturbed
from tests.data.store.processes import Preparation


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    with pytest.raises(LungtlError) as caught:
        prepare(Made(str(tmp_path / "diary"), kill_at="bag-10", seconds=0.01), tmp_path, workers=2)
    assert "a worker process died or ran out of memory" in str(caught.value)
    assert "workers=1" in str(caught.value)
    again = Made(str(tmp_path / "second-diary"))
    assert content(prepare(again, tmp_path).path) == undisturbed(tmp_path)
    assert len(noted(again.diary)) < 1 + 12


# A limit on the file size simulates a full disk: both fail in the middle of a write.
@pytest.mark.parametrize(
    ("limit", "workers", "width", "file"),
    [
        (3000, 1, 4000, "voxels/bag-00.npy"),  # the header fits, the voxels do not
        (3000, 2, 4000, "voxels/bag-"),
        (190, 1, 4, "parts/bag-00.json"),
        (3000, 1, 4, "bags.parquet"),
    ],
)
def test_a_write_that_fails_halfway(tmp_path: Path, limit: int, workers: int, width: int, file: str) -> None:
    source = Made(str(tmp_path / "diary"), width=width)
    said = Preparation(source, tmp_path, workers, file_limit=limit).result()
    assert said is not None
    assert said.startswith("cannot write ")
    assert f"/{file}" in said
    assert "(File too large); check the disk" in said
    assert "\n" not in said
    assert content(prepare(source, tmp_path).path) == undisturbed(tmp_path, width=width)
    assert not list(tmp_path.rglob("*.tmp"))
