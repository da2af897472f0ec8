"""What the leak demonstration reads and writes; its folds are tested in tests/evaluation/test_leakage.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import torch

from lungtl.data.store.writer import prepare
from lungtl.evaluation.leakage import BAG, DATASET_LABELS, PATIENT, RANDOM_LABELS, SLICE
from lungtl.leak_demo import command, figure, findings, markdown, nodule_slices
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Bag, Item
from tests.stores import ToySource, toy_store


def table(kinds: tuple[str, ...] = (PATIENT, BAG, SLICE)) -> pd.DataFrame:
    """Two repetitions of each: AUROC .80 and .82 with the dataset's labels and patients together, .1 more a level."""
    rows = [
        {"labels": labels, "kept_together": kept, "draw": draw, "n": 900, "n_patients": 50, "n_positive": 400,
         "auroc": start + 0.08 * level + 0.02 * draw}
        for labels, start in ((DATASET_LABELS, 0.8), (RANDOM_LABELS, 0.5))
        for level, kept in enumerate(kinds)
        for draw in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_readme_has_mean_and_range_of_the_draws() -> None:
    text = markdown(table(), "toy", {"labels": "as given", "image": "whole slices"})
    assert "900 nodule slices (400 malignant) of 50 patients of toy" in text
    assert "2 repetitions" in text
    assert "\n- labels: as given\n- image: whole slices\n" in text
    assert "| patients | 0.810 (0.800 to 0.820) | 0.510 (0.500 to 0.520) |" in text
    assert "| nothing (random slices) | 0.970 (0.960 to 0.980) | 0.670 (0.660 to 0.680) |" in text


def test_without_patients_of_several_bags_that_line_is_left_out() -> None:
    text = markdown(table((PATIENT, SLICE)), "toy", {})
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")] == [
        "| folds keep together", "| ---", "| patients", "| nothing (random slices)"
    ]  # fmt: skip


def shifted(real: tuple[float, float], random: tuple[float, float]) -> pd.DataFrame:
    """Patient and bag folds; how far the bag folds of the two draws are above."""
    return pd.DataFrame(
        {"labels": labels, "kept_together": kept, "draw": draw, "auroc": 0.6 + (above[draw] if kept == BAG else 0.0)}
        for labels, above in ((DATASET_LABELS, real), (RANDOM_LABELS, random))
        for kept in (PATIENT, BAG)
        for draw in (0, 1)
    )


@pytest.mark.parametrize(
    ("real", "random", "conclusion"),
    [
        ((-0.007, 0.007), (-0.02, 0.03), "so a leak is not shown."),
        ((0.01, 0.02), (-0.02, 0.03), "with the dataset's labels, but not with random labels."),
        ((0.07, 0.08), (0.2, 0.3), "from its other slices."),
    ],
)
def test_the_conclusion_follows_from_the_repetitions(
    real: tuple[float, float], random: tuple[float, float], conclusion: str
) -> None:
    (line,) = findings(shifted(real, random))
    assert f"({real[0]:+.3f} to {real[1]:+.3f}) with the dataset's labels" in line
    assert f"({random[0]:+.3f} to {random[1]:+.3f}) with random labels" in line
    assert line.endswith(conclusion)


def test_the_command_names_no_place_on_this_machine() -> None:
    said = command(["experiments=lidc", "data_dir=/home/a/data", "dataset.root=/home/a/LIDC", "split.folds=3"])
    assert said == "lungtl leak_demo experiments=lidc dataset.root=LIDC split.folds=3"


@pytest.mark.parametrize("kinds", [(PATIENT, BAG, SLICE), (PATIENT, SLICE)])
def test_the_figure_has_a_mark_for_each_draw_and_says_the_means(kinds: tuple[str, ...]) -> None:
    drawn = figure(table(kinds), "toy")
    assert drawn.get_suptitle().startswith("toy: 900 nodule slices of 50 patients\na mark for each repetition")
    left, right = drawn.axes
    for axes, start in ((left, 0.8), (right, 0.5)):
        points = [np.asarray(marks.get_offsets()) for marks in axes.collections]
        for k, line in enumerate(points):
            np.testing.assert_allclose(line, [[start + 0.08 * k, k], [start + 0.08 * k + 0.02, k]])
        low, high = axes.get_xlim()
        assert low < 0.5 < 1 < high
        means = [f"{start + 0.08 * k + 0.01:.2f}" for k in range(len(kinds))]
        assert [text.get_text() for text in axes.texts] == ["chance", *means]
    assert len({str(marks.get_facecolor()) for marks in left.collections}) == len(kinds)


@dataclass(frozen=True)
class Nodules(ToySource):
    """The toy's bags, those without a malignant slice getting a benign first and last one."""

    def load(self, item: Item) -> Bag:
        bag = super().load(item)
        labels = bag.slice_labels.copy()
        if not bag.bag_label:
            labels[[0, -1]] = 1
        return replace(bag, slice_labels=labels)


class FakeFeatures:
    """Of slice s of bag b: (b, s)."""

    lengths = (3, 4, 5, 6)

    def rows(self, bag_id: str) -> torch.Tensor:
        bag = int(bag_id[1:])
        return torch.tensor([[bag, index] for index in range(self.lengths[bag])], dtype=torch.float16)


def test_nodule_slices_keep_their_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lungtl.training.feature_cache.cached_features", lambda *_, **__: FakeFeatures())
    store = prepare(Nodules(FakeFeatures.lengths), tmp_path)
    config: Any = MagicMock()
    config.trainer.accelerator = "cpu"
    rows, features = nodule_slices(store, MagicMock(), config)
    assert rows.to_numpy().tolist() == [
        ["b00", "p00", 0], ["b00", "p00", 0], ["b01", "p01", 1], ["b02", "p02", 0], ["b02", "p02", 0], ["b03", "p03", 1]
    ]  # fmt: skip
    assert features.tolist() == [[0, 0], [0, 2], [1, 2], [2, 0], [2, 4], [3, 3]]


def test_a_dataset_without_benign_nodules_cannot_show_it(tmp_path: Path) -> None:
    nothing: Any = None  # not looked at
    with pytest.raises(LungtlError, match=r"toy-\w+ has no slice of a benign nodule; choose dataset=phantom"):
        nodule_slices(toy_store(tmp_path, [3, 3]), nothing, nothing)
