from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lungtl.settings.errors import UsageError
from lungtl.sweeps.search.space import Space, read_space


def _space(*lines: str) -> Space:
    return read_space(OverridesParser.create().parse_overrides(list(lines)))


def test_hydra_sweeps_become_optuna_distributions() -> None:
    space = _space(
        "aggregator=mean,max", "freezing.n=int(interval(1,4))", "head.dropout=interval(0,0.5)",
        "optimizer.lr=tag(log,interval(1e-5,1e-2))", "head.width=range(64,257,64)", "seed=3",
    )  # fmt: skip
    assert space.distributions == {
        "aggregator": CategoricalDistribution(["mean", "max"]),
        "freezing.n": IntDistribution(1, 4),
        "head.dropout": FloatDistribution(0, 0.5),
        "optimizer.lr": FloatDistribution(1e-5, 1e-2, log=True),
        "head.width": CategoricalDistribution(["64", "128", "192", "256"]),
    }
    assert space.fixed == ("seed=3",)


def test_the_command_line_overrides_a_predefined_space() -> None:
    space = _space("optimizer.lr=tag(log,interval(1e-5,1e-2))", "head.width=64,128", "optimizer.lr=0.01")
    assert list(space.distributions) == ["head.width"]
    assert space.fixed == ("optimizer.lr=0.01",)


def test_numbers_have_four_significant_digits() -> None:
    space = _space("optimizer.lr=interval(0,1)", "freezing.n=int(interval(1,123456))", "seed=1")
    assert space.overrides({"optimizer.lr": 0.000123456789, "freezing.n": 123456}) == [
        "seed=1", "optimizer.lr=0.0001235", "freezing.n=123456",
    ]  # fmt: skip


def test_quoted_choices_survive() -> None:
    space = _space("image.windows=choice([lung],[lung,bone,wide])", "name='a b','c=d'")
    lines = [line for corner in space.corners() for line in corner]
    parsed = {str(override.value()) for override in OverridesParser.create().parse_overrides(lines)}
    assert parsed == {"['lung']", "['lung', 'bone', 'wide']", "a b", "c=d"}


def test_corners_contain_each_choice_and_both_ends() -> None:
    assert _space("a=x,y,z", "b=interval(0.5,2)", "c=1").corners() == [
        ["c=1", "a=x", "b=0.5"],
        ["c=1", "a=y", "b=0.5"],
        ["c=1", "a=z", "b=0.5"],
        ["c=1", "a=x", "b=2"],
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("seed=1", "nothing to search"),
        ("trainer.monitor=val/loss,val/auroc", "one value"),
        ("optimizer.lr=tag(log,interval(0,1))", "above 0"),
        ("optimizer.lr=interval(2,1)", "low, high"),
        ("optimizer.lr=tag(logarithmic,interval(1,2))", "only tag is log"),
        ("head.width=tag(log,choice(64,128))", "only tag is log"),
    ],
)
def test_an_impossible_search_is_refused(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        _space(line)
