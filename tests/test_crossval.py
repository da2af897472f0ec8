"""Arguments and exit codes; whole cross-validations are in tests/commands."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest

from lungtl.crossval import check_overrides, main
from lungtl.settings.errors import UsageError
from lungtl.settings.typed import TYPED


@pytest.mark.parametrize(
    "override", ["split.fold=1", "split.kind=source", "+split.fold=0,1", "resume=x", "split.folds=3,5"]
)
def test_what_defines_a_cross_validation_cannot_be_overridden(override: str) -> None:
    with pytest.raises(UsageError) as error:
        check_overrides(["aggregator=mean", override])
    assert str(error.value).startswith(override)


def test_everything_else_can_be_overridden() -> None:
    check_overrides(["-m", "split.folds=7", "split.seed=0,1", "seed=0,1", "hydra/launcher=joblib", "experiments=x"])


def test_the_arguments_and_the_exit_code_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_module(name: str, **options: Any) -> None:
        assert (name, options["run_name"]) == ("lungtl.train", "__main__")
        assert sys.argv[1:] == ["--config-name=crossval", "-m", "split.kind=kfold", "seed=0,1", "--cfg", "job"]
        sys.exit(3)

    monkeypatch.setenv(TYPED, "[]")
    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["crossval", "seed=0,1", "--cfg", "job"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 3
