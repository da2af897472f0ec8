from __future__ import annotations

from pathlib import Path

import numpy as np

from lungtl.sweeps.report.remarks import best_setting, join_items, warnings
from lungtl.sweeps.report.sweep import read_sweep
from tests.sweeps.report.sweeps import LABELS, bags, probabilities, write_failed, write_grid, write_run

PERFECT = np.where(LABELS == 1, 0.9, 0.1)


def warning_text(sweep: Path) -> str:
    return "\n".join(warnings(read_sweep(sweep)))


def test_the_best_setting_is_named_with_its_test_auroc(tmp_path: Path) -> None:
    sweep = read_sweep(write_grid(tmp_path, {("mean", "a"): 0.1, ("max", "a"): 1.5}))
    best = sweep.tested.best
    assert best is not None
    score = best.test["auroc"]
    text = best_setting(sweep)
    assert f"on validation: max (AUROC {best.validation.value:.3f})." in text
    assert f"Test AUROC {score.value:.3f} (95 % CI {score.low:.3f} to {score.high:.3f})." in text


def test_no_best_setting_without_validation_predictions(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", PERFECT), None)
    assert best_setting(read_sweep(tmp_path)).startswith("No best setting")
    assert best_setting(read_sweep(tmp_path)).endswith("the only setting.")


def test_equal_settings_do_not_differ_significantly(tmp_path: Path) -> None:
    text = warning_text(write_grid(tmp_path, {("mean", "a"): 0.8, ("max", "a"): 0.8}))
    (line,) = [line for line in text.splitlines() if "differs significantly" in line]
    assert line.startswith("No setting's")
    assert "corrected" not in line  # there is one comparison
    assert "does not show that they are equal" in text


def test_a_clear_difference_gives_no_warning(tmp_path: Path) -> None:
    text = warning_text(write_grid(tmp_path, {("mean", "a"): -1.0, ("max", "a"): 3.0, ("attention", "a"): 3.0}))
    assert "No setting's" not in text
    assert (
        "different from max (Holm-corrected for 2 comparisons): attention." in text
        or "different from attention (Holm-corrected for 2 comparisons): max." in text
    )


def test_a_setting_higher_on_test_is_not_selected(tmp_path: Path) -> None:
    for name, test, validation in (("0", 0.5, 3.0), ("1", 3.0, 0.5)):
        test_bags, validation_bags = bags("test", probabilities(test, 1)), bags("val", probabilities(validation, 2))
        write_run(tmp_path / name, test_bags, validation_bags, choices={"aggregator": f"number {name}"})
    assert "number 1 has a higher test AUROC than the best setting" in warning_text(tmp_path)
    assert best_setting(read_sweep(tmp_path)).count("number 0") == 1


def test_controls_that_are_not_beaten(tmp_path: Path) -> None:
    text = warning_text(write_grid(tmp_path, {("mean", "a"): 0.0, ("max", "a"): 1.5}, seeds=[0]))
    assert "better than the prevalence (Holm-corrected for 2 comparisons): mean." in text
    assert "No setting is significantly better than the same head on a random backbone." in warning_text(
        write_grid(tmp_path / "x", {("max", "a"): 0.1})
    )


def test_a_control_that_outperforms_settings_is_named(tmp_path: Path) -> None:
    # the diameters of `write_run` rank with an AUROC of .57
    text = warning_text(write_grid(tmp_path, {("mean", "a"): -1.5, ("max", "a"): 1.5}))
    assert "Nodule diameter alone outperforms mean (Holm-corrected for 2 comparisons)." in text
    assert "better than nodule diameter" not in text
    text = warning_text(write_grid(tmp_path / "all", {("mean", "a"): -1.5, ("max", "a"): -1.5}))
    assert "Nodule diameter alone outperforms every setting (Holm-corrected for 2 comparisons)." in text


def test_a_control_that_is_beaten_is_not_mentioned(tmp_path: Path) -> None:
    assert "prevalence" not in warning_text(write_grid(tmp_path, {("max", "a"): 0.9}))


def test_untested_comparisons_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", PERFECT), bags("val", PERFECT))  # AUROC 1, against 0.5
    text = warning_text(tmp_path)
    assert "Not tested (no interval and no p-value: the estimated variance is 0): the only setting against" in text
    assert "better than the prevalence" not in text


def test_single_seeds(tmp_path: Path) -> None:
    assert "Each setting was trained with one seed" in warning_text(
        write_grid(tmp_path, {("mean", "a"): 1.0}, seeds=[0])
    )
    write_grid(tmp_path / "two", {("mean", "a"): 1.0})
    assert "seed" not in warning_text(tmp_path / "two")


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    write_grid(tmp_path, {("mean", "a"): 1.0, ("max", "a"): 1.0, ("max", "b"): 1.0})
    write_failed(tmp_path / "99", "no")
    text = warning_text(tmp_path)
    assert "1 of 4 combinations are missing" in text
    assert "1 of 7 runs did not finish" in text
    assert "pruned" not in text


def test_pruned_runs_are_counted_separately(tmp_path: Path) -> None:
    write_grid(tmp_path, {("mean", "a"): 1.0})
    for name in ("98", "99"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "status.json").write_text('{"state": "finished", "number": 9}')
        (folder / "pruned.json").write_text("1")
    text = warning_text(tmp_path)
    assert "2 of 4 runs were pruned" in text
    assert "did not finish" not in text


def test_a_factor_that_never_changes_alone(tmp_path: Path) -> None:
    text = warning_text(write_grid(tmp_path, {("mean", "a"): 1.0, ("max", "b"): 1.0}))
    assert "aggregator: no two runs differ in it alone for max" in text


def test_other_test_sets(tmp_path: Path) -> None:
    for name, fingerprint in (("0", "one"), ("1", "one"), ("2", "two")):
        write_run(tmp_path / name, bags("test", PERFECT), bags("val", PERFECT), split_fingerprint=fingerprint)
    text = warning_text(tmp_path)
    assert "2 different test sets" in text
    assert "Only the 2 runs of test set 1 are compared" in text
    assert "1 run with other test sets" in text


def test_long_lists_are_cut() -> None:
    assert join_items(["a", "b"]) == "a; b"
    assert join_items([str(i) for i in range(20)]).endswith("; 11; and 8 more")


def test_a_run_that_repeats_another_is_named(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_run(tmp_path / name, bags("test", PERFECT), bags("val", PERFECT), seed=5)
    assert "only the first counts: the only setting, seed 5 (run 1 repeats run 0)." in warning_text(tmp_path)


def computed_by(sweep: Path, *environments: dict[str, object]) -> str:
    for number, environment in enumerate(environments):
        test, validation = bags("test", probabilities(1, 0)), bags("val", probabilities(1, 1))
        write_run(sweep / str(number), test, validation, seed=number, environment=environment)
    return warning_text(sweep)


def test_runs_of_other_code_packages_or_devices_are_named(tmp_path: Path) -> None:
    text = computed_by(tmp_path, {}, {"commit": "beef", "torch": "2.1"}, {"torch": "2.1", "device": "H100"})
    assert "different code, packages or devices" in text
    assert "commit c0ffee (2 runs) or beef (1 run); device cpu (2 runs) or H100 (1 run)" in text
    assert "torch 2.0 (1 run) or 2.1 (2 runs)." in text
    assert "uncommitted" not in text


def test_uncommitted_changes_are_counted(tmp_path: Path) -> None:
    text = computed_by(tmp_path, {"changed": True}, {"changed": True}, {})
    assert "2 of 3 runs used uncommitted changes" in text
    assert "different code" not in text


def test_equal_environments_give_no_warning(tmp_path: Path) -> None:
    text = computed_by(tmp_path, {}, {})
    assert "code" not in text


def test_runs_without_an_environment_are_counted(tmp_path: Path) -> None:
    computed_by(tmp_path, {}, {})
    (tmp_path / "0" / "environment.json").unlink()
    assert "not recorded for 1 of 2 runs" in warning_text(tmp_path)


def test_a_perfect_best_setting_gives_the_reason_for_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", PERFECT), bags("val", PERFECT))
    assert "AUROC 1.000 (no interval: every resample" in best_setting(read_sweep(tmp_path))
