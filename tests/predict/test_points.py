"""Nodules at points: they are predicted as `dataset=dicom` cuts them out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lungtl.evaluation.covariates import Regression
from lungtl.predict import command, scans
from lungtl.predict.page import Page
from lungtl.predict.points import Cut
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError
from lungtl.sources.dicom import DicomSource
from lungtl.sources.points import read_points
from tests.predict.lab import bundle, predict, rows, series

NODULES: dict[str, Any] = {"bag": "nodule", "field_mm": 12.0, "depth_mm": 6.0}
POINTS = [(5.0, -10.0, 7.0, 5.0), (0.0, 0.0, 5.0, math.nan)]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "make_page", lambda result, *_: Page("page", b"picture", result))
    monkeypatch.setattr(
        scans, "slice_heatmaps", lambda classifier, frames, *_: np.ones((len(frames), *frames.shape[2:]))
    )


def table(folder: Path, uid: str, labelled: bool = False) -> Path:
    path = folder / f"points-{labelled}.csv"
    extra, values = (",patient_id,label", ",p,1") if labelled else ("", "")
    lines = [f"series_uid,x_mm,y_mm,z_mm,diameter_mm{extra}"]
    lines += [f"{uid},{x},{y},{z},{'' if math.isnan(d) else d}{values}" for x, y, z, d in POINTS]
    path.write_text("\n".join(lines))
    return path


def expected(folder: Path, uid: str, model: Path) -> list[Any]:
    source = DicomSource(str(folder / "scans"), str(table(folder, uid, True)), field_mm=12.0, depth_mm=6.0)
    opened = Model.open(model)
    bags = [source.load(item) for item in source.inventory().items]
    return [(opened.predict_voxels(bag.voxels, bag.z_mm, bag.pixel_spacing_mm), bag) for bag in bags]


def test_nodules_are_cut_out_as_in_training(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans")
    model = bundle(tmp_path / "model", **NODULES)
    outputs = predict(model, tmp_path / "scans", tmp_path / "out", points=table(tmp_path, uid))
    assert [entry.key for entry in outputs.series.values()] == [f"{uid}_0", f"{uid}_1"]
    found = rows(tmp_path / "out" / "predictions.csv")
    for row, (prediction, bag) in zip(found, expected(tmp_path, uid, model), strict=True):
        assert float(row["probability"]) == pytest.approx(prediction.probability, abs=1e-6)
        assert int(row["n_slices"]) == len(bag.voxels)
        assert f"{row['series_uid']}_{row['nodule']}" == bag.bag_id
    assert "probability_with_covariates" not in found[0]
    assert (tmp_path / "out" / f"{uid}_1" / "report.html").is_file()


def test_covariates_are_used_where_they_are_known(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans")
    regression = Regression(("logit", "diameter", "density"), (0.8, 0.5, 0.001), -0.3, 9)
    model = bundle(tmp_path / "model", covariates=regression, **NODULES)
    predict(model, tmp_path / "scans", tmp_path / "out", points=table(tmp_path, uid))
    first, second = rows(tmp_path / "out" / "predictions.csv")
    prediction, bag = expected(tmp_path, uid, model)[0]
    known = {"probability": prediction.probability, "diameter_mm": 5.0, "density": bag.details["density"]}
    wanted = regression.predict(pd.DataFrame([known]))[0]
    assert float(first["probability_with_covariates"]) == pytest.approx(wanted, abs=1e-6)
    assert second["probability_with_covariates"] == ""  # no diameter


def test_points_that_cannot_be_predicted(tmp_path: Path) -> None:
    uid, without = series(tmp_path / "scans" / "a", 0), series(tmp_path / "scans" / "b", 1)
    (points := tmp_path / "points.csv").write_text(
        f"series_uid,x_mm,y_mm,z_mm\n{uid},0,0,5\n{uid},900,0,5\n1.2.3,0,0,0\n"
    )
    predict(bundle(tmp_path / "model", **NODULES), tmp_path / "scans", out := tmp_path / "out", points=points)
    assert [row["nodule"] for row in rows(out / "predictions.csv")] == ["0"]
    refused = {row["item"]: row for row in rows(out / "quarantine.csv")}
    assert "outside the volume" in refused[f"{uid}_1"]["reason"]
    assert "not in the input" in refused["1.2.3"]["reason"]
    assert refused[without]["remedy"].startswith("no action required")


def test_a_table_of_points_needs_no_labels_and_keeps_no_patients(tmp_path: Path) -> None:
    (points := tmp_path / "points.csv").write_text(
        "series_uid,x_mm,y_mm,z_mm,patient_id,label\n1.2,1,2,3,Doe,yes\n1.2,2,3,4,Roe,\n"
    )
    found = read_points(points, labelled=False)["1.2"]
    assert [(point.patient_id, point.label) for point in found] == [("", -1)] * 2
    with pytest.raises(LungtlError, match="label is 'yes'"):
        read_points(points)


def test_points_for_a_model_of_scans(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans")
    with pytest.raises(LungtlError, match="omit points"):
        predict(bundle(tmp_path / "m"), tmp_path / "scans", tmp_path / "out", points=table(tmp_path, uid))


def test_a_bundle_that_does_not_say_how_it_cut(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match="does not say how large"):
        Cut.of(Model.open(bundle(tmp_path / "old", bag="nodule")))
    assert Cut.of(Model.open(bundle(tmp_path / "new", **NODULES))) == Cut(12.0, 6.0)
