from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lungtl.runs.folder import find_run, is_inside, read_json, read_yaml, write_record
from lungtl.settings.errors import LungtlError

DAMAGED = [b"", b"\xff\xfe\xff", b"[1]", b"{", b"\x00"]


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize("content", DAMAGED[1:])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, read: Any, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(LungtlError, match=str(tmp_path / "file")) as error:
        read(tmp_path / "file")
    assert "\n" not in str(error.value)


def test_yaml_is_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: ${oc.env:HOME}\nb: [1.0e-3, null, '2024.10']\n", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") == {"a": "${oc.env:HOME}", "b": [0.001, None, "2024.10"]}


def test_a_damaged_record_costs_its_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_record(tmp_path / "runs" / name, {"mlflow_run_id": f"{name}1234567890"})
    (tmp_path / "runs" / "a" / "run.json").write_bytes(b"")
    assert find_run("b1234567", tmp_path) == tmp_path / "runs" / "b"
    (warning,) = caplog.messages
    assert str(tmp_path / "runs" / "a" / "run.json") in warning


def test_where_the_runs_of_a_data_folder_are(tmp_path: Path) -> None:
    assert is_inside(tmp_path / "runs" / "x", tmp_path)
    assert is_inside(tmp_path / "sweeps" / "s" / "x", tmp_path)
    assert not is_inside(tmp_path / "x", tmp_path)
    assert not is_inside(tmp_path / "sweeps" / "x", tmp_path)
