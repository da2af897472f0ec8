"""Results with covariates: a second prediction, fitted on validation or training bags."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lungtl.bundle import load_bundle, load_covariates
from lungtl.data.store.reader import Store
from lungtl.evaluation.covariates import fit_covariates
from lungtl.runs.folder import VALIDATION
from lungtl.settings import parts
from lungtl.settings.schema import TrainConfig
from lungtl.training.probe import Probe
from tests.runs.scored import finished, split_of
from tests.stores import toy_store
from tests.training.test_fit import config_of

MEAN_MAX = {parts.TARGET: "lungtl.models.aggregators.mean_max.MeanMax"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), [3, 4, 2, 5] * 5)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = config_of(tmp_path_factory.mktemp("runs"), max_epochs=2)
    return config.model_copy(update={"backbone": {**config.backbone, "weights": "none"}})


def test_covariates_give_a_second_prediction_fitted_on_validation_bags(config: TrainConfig, store: Store) -> None:
    settings = config.evaluation.model_copy(update={"untrained": False, "probe": False, "figures": False})
    config = config.model_copy(update={"evaluation": settings, "covariates": ["diameter"]})
    split = split_of(store)
    split.loc[15, "diameter_mm"] = np.nan
    document, folder, _ = finished(config, store, split, "covariates")
    table = pd.read_csv(folder / "predictions.csv").merge(split[["bag_id", "diameter_mm"]], on="bag_id")
    validation = pd.read_csv(folder / VALIDATION).merge(split[["bag_id", "diameter_mm"]])
    fitted = fit_covariates(split[split["split"] == "train"], validation, ["diameter"])
    saved = load_covariates(folder / "bundle", load_bundle(folder / "bundle")[1])
    assert fitted is not None
    assert saved is not None
    for regression in (fitted, saved):
        np.testing.assert_allclose(regression.predict(table), table["probability_with_covariates"], rtol=1e-9)
    part, known = document["with_covariates"], table[table["bag_id"] != "b15"]
    assert (part["covariates"], part["n_unknown"], part["scores"]["n"]) == (["diameter"], 1, 7)
    combined, alone = (
        roc_auc_score(known["label"], known[name]) for name in ("probability_with_covariates", "probability")
    )
    assert part["scores"]["metrics"]["auroc"]["value"] == pytest.approx(combined)
    assert part["gain"]["difference"] == pytest.approx(combined - alone)
    assert set(part["gains"]) == {"prevalence"}  # the diameter of a test bag is unknown
    card = (folder / "bundle" / "card.md").read_text()
    assert "- covariates: diameter (a reader had to outline the nodule first)" in card
    assert "| metric | model with diameter |" in card


def test_of_a_linear_network_the_covariates_stand_beside_its_features(config: TrainConfig, store: Store) -> None:
    """Fitted on the training bags: the validation bags' labels play no part; the same from voxels as from the cache."""
    settings = config.evaluation.model_copy(update={"untrained": False, "probe": False, "figures": False})
    changes = {"evaluation": settings, "covariates": ["diameter"], "aggregator": MEAN_MAX,
               "head": config.head.model_copy(update={"width": None})}  # fmt: skip
    config, split = config.model_copy(update=changes), split_of(store)
    shifted = split.assign(label=split["label"].where(split["split"] != "val", 1 - split["label"]))
    tables = []
    for name, bags, cached in (("linear", split, True), ("other", shifted, True), ("voxels", split, False)):
        _, folder, _ = finished(config, store, bags, name, cached)
        tables.append(pd.read_csv(folder / "predictions.csv")["probability_with_covariates"])
        fitted = load_covariates(folder / "bundle", load_bundle(folder / "bundle")[1])
        assert isinstance(fitted, Probe)
        assert (fitted.covariates, fitted.n) == (("diameter",), 8)
    np.testing.assert_array_equal(tables[1], tables[0])
    np.testing.assert_allclose(tables[2], tables[0], atol=1e-5)
