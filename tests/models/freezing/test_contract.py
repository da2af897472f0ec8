"""The contract of all freezing strategies: only the intended parameters change, bit for bit."""

from __future__ import annotations

import pytest
import yaml

from lungtl.settings import folders, parts
from tests.models.freezing.cases import (
    CASES,
    EPOCHS,
    LITE,
    NETWORKS,
    RESNET,
    VIT,
    adapted_module,
    epochs_of,
    needs_peft,
    optimizer_of,
)
from tests.models.tiny import tiny_backbone

CONFIGS = {path.stem: yaml.safe_load(path.read_text()) for path in (folders.conf_dir() / "freezing").glob("*.yaml")}
every_case = pytest.mark.parametrize(
    "case", [pytest.param(name, marks=needs_peft if name == "lora" else ()) for name in CASES]
)


QUICK = {
    LITE: {"last_blocks", "norm_only", "full"}, VIT: {"bitfit", "lora", "norm_only"},
    RESNET: {"frozen", "gradual", "gradual_most", "lp_ft", "from_scratch", "layer_decay"},
}  # fmt: skip
"""Each strategy on one network, or two; the others are `exhaustive`."""


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, marks=[
            *([] if case in QUICK[name] else [pytest.mark.exhaustive]), *([needs_peft] if case == "lora" else []),
        ])
        for case in CASES
        for name in NETWORKS
    ],
)  # fmt: skip
def test_only_the_intended_parameters_and_statistics_change(case: str, name: str) -> None:
    module = adapted_module(name, CASES[case].build())
    optimizer = optimizer_of(module)
    backbone = module.classifier.backbone
    named = dict(backbone.named_parameters())
    trained: set[str] = set()
    for epoch, moved in enumerate(epochs_of(module, optimizer)):
        assert moved == {key for key in backbone.state_dict() if CASES[case].moves(name, key, epoch)}, epoch
        trained |= {key for key in moved if key in named}
        stepped = {id(parameter) for parameter in optimizer.state}
        # the optimiser skips parameters that are not unfrozen yet: they have no state
        assert {key for key, parameter in named.items() if id(parameter) in stepped} == trained
        assert {key for key, parameter in named.items() if parameter.requires_grad} == trained


@every_case
def test_each_trained_parameter_is_in_one_group_of_the_optimiser(case: str) -> None:
    module = adapted_module("resnet18", CASES[case].build())
    backbone = {name: id(parameter) for name, parameter in module.classifier.backbone.named_parameters()}
    head = {id(parameter) for parameter in module.classifier.parameters()} - set(backbone.values())
    ever = {i for key, i in backbone.items() if any(CASES[case].moves("resnet18", key, e) for e in range(EPOCHS + 9))}
    given = [id(parameter) for group in optimizer_of(module).param_groups for parameter in group["params"]]
    assert len(given) == len(set(given))
    assert set(given) == head | ever


@pytest.mark.parametrize("name", NETWORKS)
@every_case
def test_number_of_blocks_that_never_train(case: str, name: str) -> None:
    backbone, freezing = tiny_backbone(name=name), CASES[case].build()
    freezing.adapt(backbone)
    assert freezing.frozen_blocks(backbone) == CASES[case].frozen_blocks[NETWORKS.index(name)]
    assert freezing.is_frozen(backbone) == (case == "frozen")


@every_case
def test_groups_do_not_depend_on_the_epoch(case: str) -> None:
    module = adapted_module("resnet18", CASES[case].build())
    freezing, backbone = module.freezing, module.classifier.backbone

    def names() -> list[tuple[str, tuple[str, ...]]]:
        return [(group.name, group.parameters) for group in freezing.groups(backbone)]

    before = names()
    for epoch in range(EPOCHS):
        freezing.apply(backbone, epoch)
        freezing.after_epoch(epoch, 1.0)
    assert names() == before


@pytest.mark.parametrize("config", CONFIGS)
def test_each_config_is_of_a_tested_strategy(config: str) -> None:
    parts.check(CONFIGS[config], "freezing")
    assert config in CASES
    strategy = parts.build(CONFIGS[config])
    assert type(strategy) is type(CASES[config].build())
    expected = {key: value for key, value in CONFIGS[config].items() if key != parts.TARGET}
    assert set(expected) == set(parts.signature(CONFIGS[config][parts.TARGET], "freezing"))


def test_every_strategy_has_a_config() -> None:
    assert set(CASES) - {"gradual_most"} == set(CONFIGS)
