from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lungtl.evaluation.chosen import read_chosen
from lungtl.predict.command import remedy_of
from lungtl.sources.ct import lungs
from tests.commands.conftest import Done, Lab, Trained, read_csv, read_json, uid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predicted(lab: Lab, trained: Trained, mixed: Path) -> Done:
    done = lab.run("predict", f"model={trained.folder}", f"input={mixed}")
    assert done.code == 3, done.err  # two of four are refused
    assert done.err.rstrip().splitlines()[-1].startswith("error: 2 refused, first ")
    return replace(done, code=0)


def test_every_readable_series_gets_a_probability(predicted: Done, trained: Trained) -> None:
    rows = read_csv(predicted.folder / "predictions.csv")
    assert [row["series_uid"] for row in rows] == [uid(0), uid(1)]
    assert all(0 < float(row["probability"]) < 1 for row in rows)
    chosen = read_chosen(trained.folder)
    assert chosen is not None
    for row in rows:
        expected = chosen.calibrated([float(row["probability"])])
        assert row["calibrated"] == "" if expected is None else float(row["calibrated"]) == pytest.approx(expected[0])
    assert ("calibrated" in predicted.err) == (chosen.calibration.kind != "none")
    slices = read_csv(predicted.folder / "slices.csv")
    for row in rows:
        own = [float(one["weight"]) for one in slices if one["series_uid"] == row["series_uid"]]
        assert len(own) == int(row["n_slices"])
        assert sum(own) == pytest.approx(1)
    assert {one["p_malignant"] for one in slices} == {""}  # no slice label is known: nothing trained the slice head


def test_the_others_are_listed_with_their_reasons(predicted: Done) -> None:
    refused = {row["item"]: row for row in read_csv(predicted.folder / "quarantine.csv")}
    assert set(refused) == {uid(90), uid(91)}
    assert "22 of 24 bytes of PixelData" in refused[uid(90)]["reason"]
    assert "has no RescaleSlope" in refused[uid(91)]["reason"]
    assert all(row["remedy"] for row in refused.values())


def test_the_probability_is_that_of_evaluate(predicted: Done, scored: Done) -> None:
    expected = {row["bag_id"]: float(row["probability"]) for row in read_csv(scored.folder / "predictions.csv")}
    for row in read_csv(predicted.folder / "predictions.csv"):
        assert float(row["probability"]) == pytest.approx(expected[row["series_uid"]], abs=1e-5)


def test_a_folder_without_dicom(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    message = lab.run("predict", f"model={trained.folder}", f"input={tmp_path}").complaint()
    assert str(tmp_path) in message
    assert "dataset.root" not in message  # predict has no such option


def test_a_model_of_grey_values(lab: Lab, trained: Trained, mixed: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(trained.folder / "bundle", bundle)
    config = read_json(bundle / "config.json")
    config["provenance"]["value_range"] = [0, 255]
    (bundle / "SHA256SUMS").unlink()
    (bundle / "config.json").write_text(json.dumps(config))
    assert "grey values, not HU" in lab.run("predict", f"model={bundle}", f"input={mixed}").complaint()


@pytest.mark.parametrize(
    ("remedy", "shown"),
    [
        (
            "add the missing slices, or accept the gap with dataset.max_gap_mm=28",
            "or accept the gap with max_gap_mm=28",
        ),
        (lungs.REMEDY, "use a series that shows the whole width of the chest"),
    ],
)
def test_a_remedy_names_only_options_of_this_command(remedy: str, shown: str) -> None:
    text = remedy_of(remedy)
    assert text.endswith(shown)
    assert "dataset." not in text
