"""The scripts that run the studies of experiments/ and write their pages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from make_results import PLACES, STUDIES
from study_page import additions, labelled

from lungtl.evaluation.delong import compare_aurocs
from lungtl.settings.checks import check
from lungtl.settings.schema import TrainConfig

LINES = [(study, overrides) for study, sweeps in STUDIES.items() for overrides in sweeps]


@pytest.mark.parametrize(("study", "overrides"), LINES)
def test_every_command_line_is_valid(study: str, overrides: list[str]) -> None:
    overrides = [override.replace("{data}", "/data") for override in overrides]
    dataset = "lidc_maxslice" if study in ("maxslice", "ct_pretrained") else "lidc_slices"
    places = {} if study == "phantom_aggregators" else PLACES[dataset]
    given = [f"dataset.{key}=/data/{file}" for key, file in places.items()]
    check("crossval", TrainConfig, [f"experiments={study}", *overrides, *given], multirun=True)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        (["x=1 lite0 max", "lite0 mean", "lite0 max"], ["max x=1", "mean", "max"]),
        (["lite0 max", "lite1 max", "mine"], ["lite0", "lite1", "mine"]),
        (["mine", "yours"], ["mine", "yours"]),
    ],
)
def test_settings_are_called_by_what_distinguishes_them(settings: list[str], labels: list[str]) -> None:
    assert labelled(settings) == labels


def test_a_strategy_is_compared_with_its_own_network_frozen() -> None:
    random = np.random.default_rng(0)
    labels = ["a frozen", "a full", "b full", "b frozen"]
    truth = np.arange(40) % 2
    tables = [
        pd.DataFrame({"bag_id": np.arange(40).astype(str), "patient_id": np.arange(40).astype(str), "label": truth,
                      "probability": 1 / (1 + np.exp(-random.normal(truth * skill)))})
        for skill in (2.0, 1.0, 0.2, 0.1)
    ]  # fmt: skip
    documents = [{"predictions": table, "trainable_parameters": 1000 * n} for n, table in enumerate(tables)]
    rows = additions(labels, documents)[1:]
    assert [row[0] for row in rows] == labels
    assert [rows[0][1], rows[3][1]] == ["", ""]
    for row, trained, frozen in ((rows[1], 1, 0), (rows[2], 2, 3)):
        gain = compare_aurocs(truth, tables[trained]["probability"], tables[frozen]["probability"], np.arange(40))
        assert row[1].startswith(f"{gain.difference:+.3f}, ")
    assert rows[2][2] == "2,000"
