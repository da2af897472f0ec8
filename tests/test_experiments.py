"""Every file of experiments/, in one fast pass on a few real patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lungtl
from tests.real_data import folder, needs, unpack

STUDIES = sorted(path.stem for path in (Path(__file__).parents[1] / "experiments").glob("*.yaml"))
FAST = ["image.size=32", "backbone.weights=none", "trainer.max_epochs=1", "tracking=none", "evaluation.untrained=false",
        "evaluation.figures=false", "evaluation.resamples=10", "split.test=0.3", "split.val=0.3",
        "split.train_patients=null", "workers=1"]  # fmt: skip
PATIENTS = 30
OWN_NETWORK = ("backbones", "maxslice", "nodules")
"""Studies that choose a backbone; the others are passed with a tiny one."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The overrides that name the first patients' data: of the slices, and of the largest slices."""
    target = tmp_path_factory.mktemp("few")
    whole = unpack("lidc_slices.tar", tmp_path_factory) / "LIDC-IDRI-slices"
    for patient in sorted(whole.iterdir())[:PATIENTS]:
        (target / patient.name).symlink_to(patient)
    table = pd.read_csv(folder() / "lidc_maxslice.csv")
    table = table[table["patient_id"].isin(sorted(table["patient_id"].unique())[:PATIENTS])]
    images = np.load(folder() / "lidc_maxslice.npz")
    chosen = np.isin(images["nodule_id"], table["nodule_id"])
    np.savez(target / "few.npz", **{name: images[name][chosen] for name in images.files})
    table.to_csv(target / "few.csv", index=False)
    arrays = [f"dataset.images={target / 'few.npz'}", f"dataset.table={target / 'few.csv'}"]
    phantom = ["dataset.scans=16", "dataset.z_range_mm=16", "dataset.matrix=32"]
    return {
        "slices": [f"dataset.root={target}"],
        "maxslice": arrays,
        "ct_pretrained": arrays,
        "phantom_aggregators": phantom,
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all studies, since most have the same dataset."""
    return tmp_path_factory.mktemp("data")


@pytest.mark.real
@pytest.mark.slow
@needs("lidc_slices.tar", "lidc_maxslice.npz", "lidc_maxslice.csv")
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_trains_and_scores(study: str, places: dict[str, list[str]], data_dir: Path) -> None:
    data = places.get(study, places["slices"])
    network = [] if study in OWN_NETWORK else ["backbone.name=test_resnet.r160_in1k"]
    config = lungtl.compose([f"experiments={study}", *data, f"data_dir={data_dir}", *FAST, *network])
    result = lungtl.run(config)
    probabilities = result.predictions["probability"]
    assert len(probabilities) > 4
    assert probabilities.between(0, 1).all()
    assert ("probability_with_covariates" in result.predictions) == bool(config.covariates)
