"""The scripts that run the studies of experiments/ and write their pages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from make_results import PLACES, STUDIES
from paired_tests import RANDOM, difference, paired_tests, random_counterpart, reference_of
from study_page import HERE, control_of, is_control, labelled, recipe, short

from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.formatting import format_p_value
from lungtl.settings.checks import check
from lungtl.settings.schema import TrainConfig

RESULTS = HERE / "results"
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
        (["lite0 max", f"lite0 {RANDOM} max"], ["network", f"network {RANDOM}"]),
    ],
)
def test_settings_are_called_by_what_distinguishes_them(settings: list[str], labels: list[str]) -> None:
    assert labelled(settings) == labels


@pytest.mark.parametrize("study", STUDIES)
def test_a_page_says_what_findings_yaml_says(study: str) -> None:
    findings = yaml.safe_load((RESULTS / "findings.yaml").read_text(encoding="utf-8"))[study]
    page = (RESULTS / study / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith(("**Shown**", "**Not shown**"))] == [
        f"**{title}**: {finding}" for title, finding in findings.items()
    ]


def test_figures_draw_random_weights_below_the_setting() -> None:
    titles = ["a", "a, with size", "a: probe", f"a {RANDOM}", f"a {RANDOM}, with size", "b", "b: untrained", "c"]
    assert [control_of(title, titles) for title in ("a", "a, with size", "b", "c")] == [
        f"a {RANDOM}", f"a {RANDOM}, with size", "b: untrained", None
    ]  # fmt: skip
    assert [title for title in titles if is_control(title)] == [f"a {RANDOM}", f"a {RANDOM}, with size"]


def test_figures_call_fields_of_view_by_their_size() -> None:
    assert short("image.crop_mm=16") == "16 mm"
    assert short("image.crop_mm=null image.crop=48") == "48 pixels"
    assert short("image.crop_mm=16 image.size=128") == "16 mm as 128 x 128"
    assert short("loss=votes dataset.uncounted=train") == "loss=votes uncounted=train"


@pytest.mark.parametrize(
    ("study", "label", "reference"),
    [
        ("transfer", "a full", "a frozen"),
        ("transfer", "b gradual freezing.every=1", "b frozen"),
        ("transfer", "a frozen", None),
        ("aggregators", "max", "mean_max"),
        ("aggregators", "mean_max", None),
        ("backbones", "a", None),
    ],
)
def test_each_setting_is_compared_on_its_own_backbone(study: str, label: str, reference: str | None) -> None:
    assert reference_of(study, label, ["a frozen", "b frozen", "mean_max", "max"]) == reference


def test_random_weights_are_found_for_frozen_and_trained_networks() -> None:
    labels = ["a", "b", f"a {RANDOM}", "b full", "b from_scratch", f"b {RANDOM}"]
    found = [random_counterpart(label, labels) for label in labels]
    assert found == [f"a {RANDOM}", f"b {RANDOM}", None, "b from_scratch", None, None]
    assert random_counterpart("network", ["network", f"network {RANDOM}"]) == f"network {RANDOM}"


def test_the_recommended_setting_is_the_ensemble_or_the_only_one_with_imagenet_weights() -> None:
    one, other = {"setting": "a max", "setting_key": "1"}, {"setting": f"a {RANDOM} max", "setting_key": "2"}
    ensemble = {"setting": "max ensemble", "setting_key": "ensemble"}
    assert recipe([one, other]) is one
    assert recipe([one, ensemble, other]) is ensemble
    assert recipe([one, one]) is None


def predicted(skill: float, seed: int, **columns: float) -> pd.DataFrame:
    """40 cases of as many patients; the image and each column rank them the better, the higher the skill."""
    random, truth = np.random.default_rng(seed), np.arange(40) % 2
    scores = {
        name: 1 / (1 + np.exp(-random.normal(truth * value)))
        for name, value in {"probability": skill, **columns}.items()
    }
    ids = np.arange(40).astype(str)
    table = pd.DataFrame({"bag_id": ids, "patient_id": ids, "label": truth, "diameter_mm": 4.0 + truth, **scores})
    return table.sample(frac=1, random_state=seed)  # pages must not depend on the order of the cases


def test_a_page_has_each_paired_test_that_the_predictions_allow() -> None:
    measured = {"probability_with_covariates": 3.0, "control_size_density": 1.0}
    tables = {"a": predicted(2, 0, **measured), "b": predicted(1, 1, control_untrained=0.2),
              f"a {RANDOM}": predicted(0.1, 2, **measured)}  # fmt: skip
    header, *rows = paired_tests("backbones", list(tables), [{"predictions": table} for table in tables.values()])
    assert [row[0] for row in rows] == ["a", "b"]  # frozen random weights are a control
    assert header[1:3] == ("image above the diameter", "pretrained weights above random ones")
    assert header[3:] == ("image and measurements above size and density",)
    a, b, random = (table.set_index("bag_id").sort_index() for table in tables.values())
    expected = [
        compare_aurocs(a["label"], a["probability"], random["probability"], a["patient_id"]),
        compare_aurocs(b["label"], b["probability"], b["control_untrained"], b["patient_id"]),
    ]
    for row, gain in zip(rows, expected, strict=True):
        assert row[2].startswith(f"{gain.difference:+.3f} [{gain.low:+.3f}, ")
    measurements = compare_aurocs(
        a["label"], a["probability_with_covariates"], a["control_size_density"], a["patient_id"]
    )
    assert rows[0][3].startswith(f"{measurements.difference:+.3f}")  # one test, so its p-value stays
    assert rows[0][3].endswith(f"p {format_p_value(measurements.p_value)}")
    assert rows[1][3] == ""
    assert all(row[1].startswith("-") for row in rows)  # the diameter ranks all cases correctly


def test_a_paired_test_of_other_cases_is_refused() -> None:
    table = predicted(1, 0).set_index("bag_id")
    with pytest.raises(ValueError, match="39 and 40 cases"):
        difference(table["probability"].iloc[1:], table["probability"], table)
