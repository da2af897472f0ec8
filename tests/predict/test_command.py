"""The command on tiny series: what it writes, that it resumes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.predict import command, scans
from lungtl.predict.document import Document
from lungtl.predict.models import quote_models, split_references
from lungtl.predict.page import Page
from lungtl.predict.scans import predict_scan
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.ct.series import find_series
from tests.predict.lab import Z, bundle, predict, rows, series, thresholds


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, which take most of the time."""
    monkeypatch.setattr(command, "make_page", lambda result, *_: Page("page", b"picture", result))
    monkeypatch.setattr(scans, "mean_heatmaps", lambda *_: None)


def test_all_files_agree_with_the_model(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans" / "a")
    model = bundle(tmp_path / "model", chosen=thresholds())
    predict(model, tmp_path / "scans", out := tmp_path / "out")
    (found,), _ = find_series(tmp_path / "scans")
    expected = Model.open(model).predict_series(found)
    (row,) = rows(out / "predictions.csv")
    assert (row["series_uid"], row["path"], row["model"]) == (uid, "scans/a", "tiny")
    assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-6)
    assert expected.calibrated is not None
    assert float(row["calibrated"]) == pytest.approx(expected.calibrated, abs=1e-6)
    assert row["decision_youden"] == ("positive" if expected.probability >= 0.2 else "negative")
    document = Document.model_validate_json((out / "predictions.json").read_bytes())
    assert document.complete
    assert document.series[0].probability == float(row["probability"])
    assert document.series[0].models[0].decisions["youden"] is not None
    slices = rows(out / "slices.csv")
    assert [float(one["z_mm"]) for one in slices] == [float(z) for z in range(16)]
    np.testing.assert_allclose([float(one["weight"]) for one in slices], expected.slices["weight"], atol=1e-6)
    assert rows(out / "quarantine.csv") == []
    assert (out / uid / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("plain")
def test_each_slice_names_its_nearest_native_slice(tmp_path: Path) -> None:
    series(tmp_path / "scans")
    predict(bundle(tmp_path / "model"), tmp_path / "scans", out := tmp_path / "out")
    (found,), _ = find_series(tmp_path / "scans")
    for row in rows(out / "slices.csv"):
        nearest = min(range(len(Z)), key=lambda k: abs(Z[k] - float(row["z_mm"])))
        assert row["sop_instance_uid"] == found.files[nearest].sop_uid
        assert int(row["instance_number"]) == 100 - nearest
    keys = json.loads((out / "predictions.json").read_text())["series"][0]["key_slices"]
    assert len({key["sop_instance_uid"] for key in keys}) == len(keys) == 6
    assert [key["weight"] for key in keys] == sorted((key["weight"] for key in keys), reverse=True)


@pytest.mark.usefixtures("plain")
def test_a_rerun_predicts_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = [series(tmp_path / "scans" / str(k), k) for k in range(3)]
    model, scans, out = bundle(tmp_path / "model"), tmp_path / "scans", tmp_path / "out"
    predicted: list[str] = []
    whole = predict_scan

    def counted(models: Any, one: Any, *rest: Any) -> Any:
        predicted.append(one.uid)
        if len(predicted) == 3:
            raise KeyboardInterrupt  # in the third series
        return whole(models, one, *rest)

    monkeypatch.setattr(command, "predict_scan", counted)
    with pytest.raises(KeyboardInterrupt):
        predict(model, scans, out)
    assert [row["series_uid"] for row in rows(out / "predictions.csv")] == uids[:2]
    assert not Document.model_validate_json((out / "predictions.json").read_bytes()).complete
    with (out / "slices.csv").open("a") as file:
        file.write(f"{uids[2]},,0,1")  # a kill in the middle of a line
    predict(model, scans, out)
    assert predicted[3:] == uids[2:]
    assert [row["series_uid"] for row in rows(out / "predictions.csv")] == uids
    assert [row["series_uid"] for row in rows(out / "slices.csv")] == [uid for uid in uids for _ in range(16)]
    predict(bundle(tmp_path / "other", seed=1), scans, out)
    assert predicted[4:] == uids  # another model: nothing is kept


@pytest.mark.usefixtures("plain")
def test_one_bad_series_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = series(tmp_path / "scans" / "a", 0), series(tmp_path / "scans" / "b", 1)
    whole = predict_scan

    def fails(models: Any, one: Any, *rest: Any) -> Any:
        if one.uid == bad:
            raise Refused("broken", "or accept the gap with dataset.max_gap_mm=28")
        return whole(models, one, *rest)

    monkeypatch.setattr(command, "predict_scan", fails)
    predict(bundle(tmp_path / "model"), tmp_path / "scans", out := tmp_path / "out")
    assert [row["series_uid"] for row in rows(out / "predictions.csv")] == [good]
    (refused,) = rows(out / "quarantine.csv")
    assert refused == {"item": bad, "reason": "broken", "remedy": "or accept the gap with max_gap_mm=28"}


@pytest.mark.usefixtures("plain")
def test_several_models_are_averaged(tmp_path: Path) -> None:
    series(tmp_path / "scans")
    paths = [bundle(tmp_path / "a"), bundle(tmp_path / "b", seed=5)]
    predict(",".join(map(str, paths)), tmp_path / "scans", out := tmp_path / "out")
    (found,), _ = find_series(tmp_path / "scans")
    p, q = (Model.open(path).predict_series(found).probability for path in paths)
    assert abs(p - q) > 1e-3
    (row,) = rows(out / "predictions.csv")
    assert float(row["probability"]) == pytest.approx((p + q) / 2, abs=1e-6)
    assert float(row["spread"]) == pytest.approx(abs(p - q) / math.sqrt(2), abs=1e-6)
    assert [float(one) for one in row["each"].split(";")] == pytest.approx([p, q], abs=1e-6)
    assert row["model"] == "tiny (a);tiny (b)"


def test_models_on_the_command_line(tmp_path: Path) -> None:
    assert quote_models(["model=a,b", "input=x,y", "model=one"]) == ["model='a,b'", "input=x,y", "model=one"]
    assert quote_models(["model='12345678',b"]) == ["model='12345678,b'"]
    assert split_references("a, b") == ["a", "b"]
    (tmp_path / "a,b").mkdir()
    assert split_references(str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]


def test_no_name_or_id_of_a_patient_is_written(tmp_path: Path) -> None:
    series(tmp_path / "scans", PatientName="Doerfler^Janine", PatientID="MRN4711", AccessionNumber="ACC12399")
    predict(bundle(tmp_path / "model"), tmp_path / "scans", out := tmp_path / "out")
    for path in out.rglob("*"):
        assert not any(name in path.name for name in ("Doerfler", "MRN4711", "ACC12399"))
        if path.is_file():  # names so long that base64 does not have them by chance
            assert not any(name in path.read_bytes() for name in (b"Doerfler", b"Janine", b"MRN4711", b"ACC12399"))


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        ({"value_range": [0, 255]}, {}, "grey values, not HU"),
        ({"bag": "nodule"}, {}, "points=FILE.csv"),
    ],
)
def test_models_of_something_else(tmp_path: Path, facts: dict[str, Any], options: dict[str, Any], message: str) -> None:
    series(tmp_path / "scans")
    with pytest.raises(LungtlError, match=message):
        predict(bundle(tmp_path / "model", **facts), tmp_path / "scans", tmp_path / "out", **options)
