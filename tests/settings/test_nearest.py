from __future__ import annotations

from lungtl.settings.nearest import nearest


def test_the_nearest_name_is_proposed() -> None:
    assert nearest("resnet81", ["resnet18", "vit_small"]).startswith("did you mean resnet18?")


def test_the_last_part_of_a_dotted_name_counts() -> None:
    assert nearest("phantom.matrix", ["dataset.matrix", "dataset.scans"]).startswith("did you mean dataset.matrix?")


def test_without_a_near_name_few_choices_are_listed() -> None:
    assert nearest("zzz", ["mean", "max"]) == "choices: max, mean"


def test_many_choices_are_not_listed() -> None:
    assert nearest("zzz", [f"name{i}" for i in range(99)]) == "see --help for the choices"
