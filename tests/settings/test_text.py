from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.settings.composing import compose_config, part_targets
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import ReportConfig, TrainConfig
from lungtl.settings.text import given_value, make_data_dir_absolute, quote_text

ARRAYS = ["dataset=arrays", "dataset.table=/t.csv"]


@pytest.mark.parametrize("name", ["2024.10", "1_0", "1e5", "33072852", "12e45678", "true", "inf", "yes", "007"])
def test_a_name_is_the_text_that_was_typed(name: str) -> None:
    config = compose_config("train", TrainConfig, [f"sweep.name={name}", f"name={name}", f"tracking.experiment={name}"])
    assert (config.sweep.name, config.name, config.tracking.experiment) == (name, name, name)


@pytest.mark.parametrize(
    "path", ["~/LIDC", "/data/a=b", "/data/x#1", "/data/O'Brien", "/data/LIDC (1)", "/data/新", "/my%20data/?", "2024"]
)
def test_a_path_needs_no_quotes(path: str) -> None:
    config = compose_config("train", TrainConfig, [*ARRAYS, f"dataset.images={path}", f"data_dir={path}"])
    assert config.dataset["images"] == path
    assert config.data_dir == Path(path).expanduser().resolve()


def quoted_lines(*lines: str) -> list[str]:
    return quote_text(lines, TrainConfig, lambda: part_targets("train", lines))


@pytest.mark.parametrize(
    "line",
    [
        "seed=3", "trainer.patience=null", "name=null", "optimizer.lr=1e-3", "image.windows=[lung,bone]", "~name",
        "seed=range(0,3)", "sweep={name: x}", "head.width=${trainer.batch_size}", "name=a~b, c", "cache.enabled=true",
        "--config-dir=/a~b", "unknown.key=1", "name='1'",
    ],
)  # fmt: skip
def test_everything_else_stays_as_it_is(line: str) -> None:
    assert quoted_lines(line) == [line]


def test_every_value_of_a_sweep_is_text() -> None:
    assert quoted_lines("name=2024.10,x,1_0") == ["name='2024.10',x,'1_0'"]


def test_text_that_must_be_given_can_be_the_word_null() -> None:
    assert quote_text(["sweep=null"], ReportConfig, dict) == ["sweep='null'"]


@pytest.mark.parametrize("given", ["~/x", '"~/x"', "'~/x'"])
def test_a_tilde_in_the_data_folder_is_the_home_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert quoted_lines(f"data_dir={given}") == [f"data_dir='{tmp_path / 'x'}'"]
    monkeypatch.setenv("LUNGTL_DATA_DIR", "~/x")
    make_data_dir_absolute()
    config = compose_config("train", TrainConfig, [])
    assert config.data_dir == tmp_path / "x"
    assert config.dataset["root"] == f"{tmp_path / 'x'}/phantom"


def test_an_empty_data_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTL_DATA_DIR", "")
    with pytest.raises(UsageError, match="LUNGTL_DATA_DIR is empty"):
        make_data_dir_absolute()


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        ([], None),
        (["sweep.name=x", "seed=1"], "x"),
        (["sweep.name=2024.10"], "2024.10"),
        (["+sweep.name='it\\'s'"], "it's"),
        (["sweep={name: x}"], "x"),
        (["sweep={retry: true}"], None),
        (["sweep.name=x", "sweep.name=y"], "y"),
        (["sweep.name=a=b"], "a=b"),
    ],
)
def test_the_value_that_a_command_line_gives(overrides: list[str], value: str | None) -> None:
    assert given_value("sweep.name", overrides) == value
