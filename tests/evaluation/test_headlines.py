"""The results in a few lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lungtl.evaluation.assess import assess
from lungtl.evaluation.chosen import choose
from lungtl.evaluation.formatting import headlines, text_table


def document(n: int, controls: list[str], calibration: Any = "platt") -> dict[str, Any]:
    """Of n scans, every other one positive, with a control of each name and the prevalence."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    ids, p = [f"p{i}" for i in range(n)], 0.3 * labels + random.uniform(0.1, 0.6, n)
    bags = pd.DataFrame({"bag_id": ids, "patient_id": ids, "label": labels, "probability": p})
    slices = pd.DataFrame({"bag_id": bags["bag_id"], "index": 0, "label": -1, "weight": 1.0, "p_malignant": 0.5})
    return assess(
        bags, slices, split="test", resamples=50, groups=pd.DataFrame(index=bags.index),
        chosen=choose(bags, calibration) if n > 1 else None,
        controls={"prevalence": np.full(n, 0.5), **{name: random.uniform(size=n) for name in controls}},
    )  # fmt: skip


def test_they_fit_the_screen_with_all_controls() -> None:
    lines = headlines(document(40, ["diameter", "untrained", "probe", "size + density"]))
    assert lines[0] == "test: 40 cases of 40 patients, 20 positive"
    assert [line[:18].strip() for line in lines[1:]] == [
        "AUROC", "diameter", "untrained", "probe", "size + density", "sensitivity", "specificity", "calibration"
    ]  # fmt: skip
    assert len(lines) <= 9
    assert max(map(len, lines)) <= 80
    assert all("chosen on validation" in line for line in lines[6:8])
    assert lines[-1].endswith("(platt)")


def test_every_number_is_that_of_the_document() -> None:
    found = document(40, ["diameter"])
    auroc, control, gain = (
        found["bag"]["metrics"]["auroc"], found["controls"]["diameter"]["metrics"]["auroc"], found["gains"]["diameter"]
    )  # fmt: skip
    lines = headlines(found)
    assert lines[1] == f"AUROC        {auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]"
    assert lines[2].startswith(f"  diameter   {control['value']:.3f} [")
    assert f"model {gain['difference']:+.3f}, p " in lines[2]
    point = found["operating_points"]["youden"]
    assert f"{point['sensitivity']['value']:.3f} [" in lines[3]
    assert f"at {point['threshold']:.3f}" in lines[3]


def test_without_a_choice_decisions_are_those_at_the_threshold_of_the_document() -> None:
    found = document(40, [])
    found |= {"chosen": None, "operating_points": {}, "calibrated": {}}
    assert [line.rpartition("  ")[2] for line in headlines(found)[2:4]] == ["at 0.5", "at 0.5"]
    assert headlines(found)[-1].endswith("(not calibrated)")


def test_nothing_is_estimated_from_one_scan() -> None:
    assert headlines(document(1, [])) == ["test: 1 case of 1 patient, 0 positive"]


@pytest.mark.parametrize("name", ["image.windows=[lung]", "efficientnet_lite0 " * 20])
def test_a_table_cuts_nothing(name: str) -> None:
    head, line, row = text_table([("run", "AUROC"), (name, "0.5")]).splitlines()
    assert row.startswith(name)
    assert head.index("AUROC") == line.rindex(" ") + 1 == row.index("0.5")
