from __future__ import annotations

from pathlib import Path

import numpy as np

from lungtl.sweeps.report.remarks import choice, listed, warnings
from lungtl.sweeps.report.sweep import read_sweep
from tests.sweeps.report.sweeps import LABELS, bags, probabilities, write_failed, write_grid, write_run

PERFECT = np.where(LABELS == 1, 0.9, 0.1)


def said(sweep: Path) -> str:
    return "\n".join(warnings(read_sweep(sweep)))


def test_the_choice_and_what_it_gives_on_the_test_bags(tmp_path: Path) -> None:
    sweep = read_sweep(write_grid(tmp_path, {("mean", "a"): 0.1, ("max", "a"): 1.5}))
    best = sweep.tested.best
    assert best is not None
    score = best.test["auroc"]
    text = choice(sweep)
    assert f"validation bags ({best.validation.value:.3f}): max." in text
    assert f"is {score.value:.3f}, 95 % interval {score.low:.3f} to {score.high:.3f}." in text


def test_nothing_is_chosen_without_validation_bags(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", PERFECT), None)
    assert choice(read_sweep(tmp_path)).startswith("No setting is chosen")
    assert choice(read_sweep(tmp_path)).endswith("the only setting.")


def test_no_difference_is_said_to_be_shown_between_equals(tmp_path: Path) -> None:
    text = said(write_grid(tmp_path, {("mean", "a"): 0.8, ("max", "a"): 0.8}))
    assert "No difference shown" in text
    assert "corrected" not in text.split("No difference shown")[1].split("\n")[0]  # there is one comparison
    assert "does not show that they are equal" in text


def test_a_clear_difference_is_not_doubted(tmp_path: Path) -> None:
    text = said(write_grid(tmp_path, {("mean", "a"): -1.0, ("max", "a"): 3.0, ("attention", "a"): 3.0}))
    assert "No difference shown" not in text
    assert (
        "Not shown to differ from max (corrected for 2 comparisons): attention." in text
        or "Not shown to differ from attention (corrected for 2 comparisons): max." in text
    )


def test_a_setting_that_is_higher_on_the_test_bags_is_not_the_choice(tmp_path: Path) -> None:
    for name, test, validation in (("0", 0.5, 3.0), ("1", 3.0, 0.5)):
        test_bags, validation_bags = bags("test", probabilities(test, 1)), bags("val", probabilities(validation, 2))
        write_run(tmp_path / name, test_bags, validation_bags, choices={"aggregator": f"number {name}"})
    assert "number 1 has a higher test AUROC than the chosen setting" in said(tmp_path)
    assert choice(read_sweep(tmp_path)).count("number 0") == 1


def test_controls_that_are_not_beaten(tmp_path: Path) -> None:
    text = said(write_grid(tmp_path, {("mean", "a"): 0.0, ("max", "a"): 1.5}, seeds=[0]))
    assert "Not shown to beat the control prevalence (corrected for 2 comparisons): mean." in text
    assert "No setting is shown to beat the control untrained." in said(write_grid(tmp_path / "x", {("max", "a"): 0.1}))


def test_a_control_that_beats_settings_is_said_to(tmp_path: Path) -> None:
    # the diameters of `write_run` rank with an AUROC of .57
    text = said(write_grid(tmp_path, {("mean", "a"): -1.5, ("max", "a"): 1.5}))
    assert "The control diameter is shown to beat mean (corrected for 2 comparisons)." in text
    assert "Not shown to beat the control diameter" not in text
    text = said(write_grid(tmp_path / "all", {("mean", "a"): -1.5, ("max", "a"): -1.5}))
    assert "The control diameter is shown to beat every setting (corrected for 2 comparisons)." in text


def test_a_control_that_is_beaten_is_not_mentioned(tmp_path: Path) -> None:
    assert "prevalence" not in said(write_grid(tmp_path, {("max", "a"): 0.9}))


def test_what_cannot_be_tested_is_not_called_alike(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", PERFECT), bags("val", PERFECT))  # AUROC 1, against 0.5
    text = said(tmp_path)
    assert "Not tested (no interval and no p-value: the estimated variance is 0): the only setting against" in text
    assert "beat the control prevalence" not in text


def test_single_seeds(tmp_path: Path) -> None:
    assert "Each setting was trained with one seed" in said(write_grid(tmp_path, {("mean", "a"): 1.0}, seeds=[0]))
    write_grid(tmp_path / "two", {("mean", "a"): 1.0})
    assert "seed" not in said(tmp_path / "two")


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    write_grid(tmp_path, {("mean", "a"): 1.0, ("max", "a"): 1.0, ("max", "b"): 1.0})
    write_failed(tmp_path / "99", "no")
    text = said(tmp_path)
    assert "of 4 combinations 1 are missing" in text
    assert "1 of 7 runs did not finish" in text
    assert "pruned" not in text


def test_pruned_runs_did_finish(tmp_path: Path) -> None:
    write_grid(tmp_path, {("mean", "a"): 1.0})
    for name in ("98", "99"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "status.json").write_text('{"state": "finished", "number": 9}')
        (folder / "pruned.json").write_text("1")
    text = said(tmp_path)
    assert "2 of 4 runs were pruned" in text
    assert "did not finish" not in text


def test_a_factor_that_never_changes_alone(tmp_path: Path) -> None:
    text = said(write_grid(tmp_path, {("mean", "a"): 1.0, ("max", "b"): 1.0}))
    assert "aggregator: no two runs differ in it alone for max" in text


def test_other_test_sets(tmp_path: Path) -> None:
    for name, fingerprint in (("0", "one"), ("1", "one"), ("2", "two")):
        write_run(tmp_path / name, bags("test", PERFECT), bags("val", PERFECT), split_fingerprint=fingerprint)
    text = said(tmp_path)
    assert "2 different test sets" in text
    assert "Only the 2 runs of test set 1 are compared" in text
    assert "the other 1 are" in text


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a; b"
    assert listed([str(i) for i in range(20)]).endswith("; 11; and 8 more")


def test_a_run_that_repeats_another_is_named(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_run(tmp_path / name, bags("test", PERFECT), bags("val", PERFECT), seed=5)
    assert "only the first run counts of the only setting (seed 5: run 1 repeats run 0)." in said(tmp_path)


def computed_by(sweep: Path, *environments: dict[str, object]) -> str:
    for number, environment in enumerate(environments):
        test, validation = bags("test", probabilities(1, 0)), bags("val", probabilities(1, 1))
        write_run(sweep / str(number), test, validation, seed=number, environment=environment)
    return said(sweep)


def test_runs_of_other_code_packages_or_devices_are_named(tmp_path: Path) -> None:
    text = computed_by(tmp_path, {}, {"commit": "beef", "torch": "2.1"}, {"torch": "2.1", "device": "H100"})
    assert "not computed by the same code" in text
    assert "commit c0ffee (2 runs) or beef (1 run); device cpu (2 runs) or H100 (1 run)" in text
    assert "torch 2.0 (1 run) or 2.1 (2 runs)." in text
    assert "no commit holds" not in text


def test_code_that_no_commit_holds_is_not_known_to_be_the_same(tmp_path: Path) -> None:
    text = computed_by(tmp_path, {"changed": True}, {"changed": True}, {})
    assert "2 of 3 runs were computed by code with changes that no commit holds" in text
    assert "same code, packages" not in text


def test_nothing_is_said_of_runs_that_were_computed_alike(tmp_path: Path) -> None:
    assert "computed by" not in computed_by(tmp_path, {}, {})


def test_runs_that_do_not_say_what_computed_them_are_counted(tmp_path: Path) -> None:
    computed_by(tmp_path, {}, {})
    (tmp_path / "0" / "environment.json").unlink()
    assert "By which code and packages 1 of 2 runs were computed is not recorded" in said(tmp_path)


def test_a_perfect_choice_says_why_it_has_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", PERFECT), bags("val", PERFECT))
    assert "is 1.000, without an interval: every resample" in choice(read_sweep(tmp_path))
