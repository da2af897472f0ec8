from __future__ import annotations

import shlex
from pathlib import Path

import lungtl
from lungtl.settings.checks import check
from lungtl.settings.command_line import overrides_of
from lungtl.settings.schema import EvaluateConfig, TrainConfig
from lungtl.train import next_steps


def test_the_next_steps_are_valid_commands_on_the_same_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "my data"
    config = lungtl.compose(["dataset.scans=24", "aggregator=max", f"data_dir='{data_dir}'"])
    ui, sweep, evaluate = next_steps(config, data_dir / "runs" / "a[b]c")
    assert shlex.split(ui)[1:] == ["-m", "lungtl.ui", f"data_dir='{data_dir}'"]
    words = shlex.split(sweep)
    assert words[1:5] == ["-m", "lungtl.train", "-m", "aggregator=mean,max,attention"]
    assert words[5:] == ["dataset.scans=24", f"data_dir='{data_dir}'"]
    check("train", TrainConfig, overrides_of(words[3:]), multirun=True)
    words = shlex.split(evaluate)
    assert words[1:4] == ["-m", "lungtl.evaluate", f"model='{data_dir}/runs/a[b]c'"]
    assert words[4:] == ["dataset.scans=24", f"data_dir='{data_dir}'"]
    check("evaluate", EvaluateConfig, overrides_of(words[3:]), multirun=False)


def test_the_next_steps_without_tracking_and_of_an_experiment(tmp_path: Path) -> None:
    config = lungtl.compose(["tracking=none", f"data_dir={tmp_path}"])
    assert [shlex.split(step)[2] for step in next_steps(config, tmp_path)] == ["lungtl.train", "lungtl.evaluate"]
    assert "tracking=none" in next_steps(config, tmp_path)[1]
    config.overrides.append("experiments=baseline")  # it may choose the dataset
    assert [shlex.split(step)[2] for step in next_steps(config, tmp_path)] == ["lungtl.train"]
