from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lungtl.runs.folder import PRUNED, run_lock
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sweeps.search.space import Space
from lungtl.sweeps.search.study import Trials, open_study, record_result, search_lock, should_prune, write_table
from lungtl.sweeps.state import State, write_state

SPACE = Space({"x": FloatDistribution(0, 1), "n": IntDistribution(1, 100)}, (), {"x": "interval(0,1)", "n": "..."})


def _open(sweep: Path, **other: Any) -> optuna.Study:
    arguments: dict[str, Any] = {
        "monitor": "val/loss", "started_with": {"search space": "s"}, "sampler": "tpe", "startup_trials": 100,
        "pruning": {"startup_trials": 2, "warmup_epochs": 1}, "seed": 0,
    }  # fmt: skip
    return open_study(sweep, **{**arguments, **other})


def _trials(study: optuna.Study, n_trials: int, retry: bool = False) -> Trials:
    return Trials(study, SPACE, n_trials, retry=retry)


def test_auroc_is_maximised_and_the_loss_minimised(tmp_path: Path) -> None:
    for monitor, best in (("val/auroc", 1), ("val/loss", 0)):
        sweep = tmp_path / monitor[4:]
        sweep.mkdir()
        study = _open(sweep, monitor=monitor)
        for value, trial in zip((0.4, 0.6), _trials(study, 2).batch(2), strict=True):
            study.tell(trial.number, value)
        assert study.best_trial.number == best


@settings(max_examples=20, deadline=None)
@given(
    fates=st.lists(st.sampled_from(["complete", "killed", "failed", "killed while sampling"]), max_size=8),
    size=st.integers(1, 3),
    retry=st.booleans(),
)
def test_each_trial_ends_once_whatever_happened_before(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], size: int, retry: bool
) -> None:
    sweep = tmp_path_factory.mktemp("sweep")
    study = _open(sweep)
    for fate in fates:
        trial = study.ask(SPACE.distributions if fate != "killed while sampling" else {"x": FloatDistribution(0, 1)})
        if fate == "complete":
            study.tell(trial, 1.0)
        elif fate == "failed":
            study.tell(trial, state=TrialState.FAIL)
    killed = {i: study.trials[i].params for i, fate in enumerate(fates) if fate == "killed"}
    failed = [study.trials[i].params for i, fate in enumerate(fates) if fate == "failed"]

    again = _open(sweep)
    trials, launched = _trials(again, 10, retry), []
    while batch := trials.batch(size):
        assert len(batch) <= size
        for asked in batch:
            launched.append((asked.number, asked.params))
            again.tell(asked.number, 0.5)

    assert dict(launched[: len(killed)]) == killed
    assert len({number for number, _ in launched}) == len(launched)
    assert all((params in [p for _, p in launched]) == retry for params in failed)
    ended = [trial for trial in again.trials if trial.state == TrialState.COMPLETE]
    assert len(ended) + (0 if retry else len(failed)) == 10
    assert not _trials(again, 10, retry).batch(1)


def test_a_resumed_search_draws_other_values(tmp_path: Path) -> None:
    first = [trial.params for trial in _trials(_open(tmp_path), 3).batch(3)]
    study = _open(tmp_path)
    for trial in study.trials:
        study.tell(trial.number, 1.0)
    later = [trial.params for trial in _trials(study, 6).batch(3)]
    assert len({p["x"] for p in first + later}) == 6


def test_the_seed_decides_the_values(tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> list[dict[str, Any]]:
        (tmp_path / name).mkdir()
        return [trial.params for trial in _trials(_open(tmp_path / name, seed=seed), 2).batch(2)]

    assert drawn("a", 0) == drawn("b", 0) != drawn("c", 1)


@pytest.mark.parametrize("other", [{"monitor": "val/auroc"}, {"started_with": {"search space": "another"}}])
def test_trials_that_are_not_comparable_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    _open(tmp_path)
    with pytest.raises(UsageError, match=r"was started with another (trainer\.monitor|search space) .*sweep\.name"):
        _open(tmp_path, **other)


def test_only_one_process_searches(tmp_path: Path) -> None:
    with search_lock(tmp_path), pytest.raises(LungtlError, match="another process"), search_lock(tmp_path):
        pass
    with search_lock(tmp_path):
        pass


def test_a_trial_worse_than_the_median_is_pruned_after_the_warm_up(tmp_path: Path) -> None:
    study = _open(tmp_path)
    first, second, late, worse = (trial.number for trial in _trials(study, 4).batch(4))
    for number, losses in ((first, (0.5, 0.4, 0.3)), (second, (0.7, 0.6, 0.6))):
        assert not any(should_prune(tmp_path, number, loss, epoch) for epoch, loss in enumerate(losses))
        study.tell(number, losses[-1])
    # the medians of the other trials are 0.6, 0.5, 0.45
    assert not should_prune(tmp_path, late, 9.0, 0), "the warm-up"
    assert not should_prune(tmp_path, late, 0.44, 1)
    assert not should_prune(tmp_path, late, 0.8, 2), "its best so far, 0.44, counts"
    assert not should_prune(tmp_path, worse, 0.51, 0)
    assert should_prune(tmp_path, worse, 0.52, 1)
    assert study.trials[late].intermediate_values == {0: 9.0, 1: 0.44, 2: 0.8}


def test_without_a_rule_nothing_is_pruned(tmp_path: Path) -> None:
    study = _open(tmp_path, pruning=None)
    numbers = [trial.number for trial in _trials(study, 4).batch(4)]
    for number in numbers[:3]:
        should_prune(tmp_path, number, 0.1, 3)
        study.tell(number, 0.1)
    assert not should_prune(tmp_path, numbers[3], 9.0, 3)


def test_the_table_has_one_row_per_trial(tmp_path: Path) -> None:
    study = _open(tmp_path)
    complete, failed, running = _trials(study, 3).batch(3)
    should_prune(tmp_path, complete.number, 0.75, 0)
    study.tell(complete.number, 0.25)
    study.tell(failed.number, state=TrialState.FAIL)
    write_table(study, SPACE, tmp_path)
    header, *rows = [line.split(",") for line in (tmp_path / "trials.csv").read_text().splitlines()]
    assert header == ["trial", "state", "value", "epochs", "x", "n"]
    assert [row[:4] for row in rows] == [
        ["0", "complete", "0.25", "1"],
        ["1", "fail", "", "0"],
        ["2", "running", "", "0"],
    ]
    assert rows[2][4:] == [f"{running.params['x']:.4g}", str(running.params["n"])]


@pytest.fixture
def one_trial(tmp_path: Path) -> optuna.Study:
    """A study with one trial, whose run has started."""
    study = optuna.create_study()
    study.ask()
    write_state(tmp_path, State("running", 0, (), "val/loss"))
    return study


def _job(folder: Path, value: object, status: JobStatus = JobStatus.COMPLETED) -> JobReturn:
    hydra = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    job = JobReturn(hydra_cfg=hydra, status=status)
    job.return_value = value
    return job


def test_a_run_of_another_process_is_recorded_once_it_has_ended(one_trial: optuna.Study, tmp_path: Path) -> None:
    with run_lock(tmp_path):
        record_result(one_trial, 0, _job(tmp_path, None))
    assert one_trial.trials[0].state == TrialState.RUNNING
    write_state(tmp_path, State("finished", 0, (), "val/loss", value=0.5))
    record_result(one_trial, 0, _job(tmp_path, 0.5))
    assert (one_trial.trials[0].state, one_trial.trials[0].value) == (TrialState.COMPLETE, 0.5)


def test_a_run_that_failed_is_a_failed_trial(one_trial: optuna.Study, tmp_path: Path) -> None:
    write_state(tmp_path, State("failed", 0, (), "val/loss", error="no memory"))
    record_result(one_trial, 0, _job(tmp_path, None))
    assert one_trial.trials[0].state == TrialState.FAIL


def test_a_job_that_never_started_is_a_failed_trial(one_trial: optuna.Study, tmp_path: Path) -> None:
    record_result(one_trial, 0, _job(tmp_path, ValueError("no such node"), JobStatus.FAILED))
    assert one_trial.trials[0].state == TrialState.FAIL


def test_a_pruned_run_is_a_pruned_trial_whatever_its_value(one_trial: optuna.Study, tmp_path: Path) -> None:
    write_state(tmp_path, State("finished", 0, (), "val/loss", value=0.9))
    (tmp_path / PRUNED).write_text("{}")
    record_result(one_trial, 0, _job(tmp_path, 0.9))
    assert one_trial.trials[0].state == TrialState.PRUNED


@pytest.mark.parametrize("cut", [1, 20])
def test_a_search_continues_after_its_last_line_was_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int
) -> None:
    study = _open(tmp_path)
    first, second = _trials(study, 2).batch(2)
    study.tell(first.number, 0.5)
    study.tell(second.number, 0.25)
    journal = tmp_path / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    for _ in range(2):  # what the first of them appends is whole, too
        again = _open(tmp_path)
        assert again.trials[0].value == 0.5
        again.set_user_attr("x", 1)
    assert sum("its last line was cut" in line for line in caplog.messages) == 1
