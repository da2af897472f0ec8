"""A model trained on one phantom, and its bundle alone on another: slice labels and diameters are known there."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from lungtl.evaluation.chosen import read_chosen
from tests.commands.conftest import MODEL, Done, Lab, Trained, read_csv, read_json
from tests.documents import check_document

pytestmark = pytest.mark.slow
PHANTOM = ["dataset=phantom", "dataset.matrix=64", "workers=1", "tracking=none"]
CONTROLS = {"prevalence", "diameter", "untrained", "probe"}


@pytest.fixture(scope="module")
def on_phantom(lab: Lab) -> Trained:
    done = lab.run("train", *PHANTOM, "dataset.scans=24", *MODEL, "trainer.max_epochs=2")
    return Trained(done, done.folder)


@pytest.fixture(scope="module")
def elsewhere(lab: Lab, on_phantom: Trained, tmp_path_factory: pytest.TempPathFactory) -> Done:
    bundle = tmp_path_factory.mktemp("elsewhere") / "model"
    shutil.copytree(on_phantom.folder / "bundle", bundle)
    return lab.run("evaluate", f"model={bundle}", *PHANTOM, "dataset.scans=10", "dataset.seed=3")


def test_all_controls_stand_beside_the_model(on_phantom: Trained) -> None:
    document = on_phantom.metrics
    check_document(document)
    assert set(document["controls"]) == CONTROLS
    assert document["bag"]["n"] == 6
    assert {table["n"] for table in document["controls"].values()} == {6}
    assert [row["group"] for row in document["subgroups"]].count("diameter") >= 1
    summary = (on_phantom.folder / "summary.txt").read_text()
    header = next(line for line in summary.splitlines() if " metric " in line)
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == ["metric", "model", *document["controls"]]
    for title in ("validation split", "slice weights: "):
        assert title in summary
    printed = [line.split()[0] for line in on_phantom.done.err.splitlines() if line.startswith("  ") and line.strip()]
    # the prevalence ranks nothing
    assert [name for name in printed if name in CONTROLS] == ["diameter", "untrained", "probe"]


def test_weights_are_compared_on_the_slices_of_bags_with_both_kinds(on_phantom: Trained) -> None:
    localised = on_phantom.metrics["localisation"]
    by_bag: dict[str, list[int]] = {}
    for row in read_csv(on_phantom.folder / "slices.csv"):
        by_bag.setdefault(row["bag_id"], []).append(int(row["label"]))
    telling = [labels for labels in by_bag.values() if min(labels) == 0 < max(labels)]
    assert localised["n"] == len(telling) > 0
    assert localised["n_slices"] == sum(map(len, telling))
    assert localised["n_nodule_slices"] == sum(label > 0 for labels in telling for label in labels)


def test_a_bundle_judges_another_dataset_by_what_it_chose_in_training(elsewhere: Done, on_phantom: Trained) -> None:
    document = read_json(elsewhere.folder / "metrics.json")
    check_document(document)
    assert (document["split"], document["bag"]["n"]) == ("all", 10)
    assert document["store_name"] != document["trained_on"]
    assert document["chosen"] == on_phantom.metrics["chosen"]
    assert set(document["controls"]) == CONTROLS
    thresholds = document["chosen"]["thresholds"]
    for name, point in document["operating_points"].items():
        assert (point and point["threshold"]) == thresholds[name]
    chosen = read_chosen(on_phantom.folder)
    assert chosen is not None
    for row in read_csv(elsewhere.folder / "predictions.csv"):
        expected = chosen.calibrated([float(row["probability"])])
        assert row["calibrated"] == "" if expected is None else float(row["calibrated"]) == pytest.approx(expected[0])


def test_the_figures_of_both_are_there(elsewhere: Done, on_phantom: Trained) -> None:
    for folder in (elsewhere.folder, on_phantom.folder):
        drawn = {path.name for path in Path(folder / "figures").iterdir()}
        assert ("heatmaps.png" in drawn) == (find_spec("captum") is not None)
        assert drawn >= {"roc.png", "precision_recall.png", "reliability.png", "scores.png", "confusion.png",
                         "subgroups.png", "montage.png"}  # fmt: skip
