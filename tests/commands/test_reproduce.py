from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from lungtl import reproduce
from lungtl.data import cache_folder
from lungtl.runs.experiment import Result
from lungtl.settings import command_line
from lungtl.settings.schema import ReproduceConfig
from lungtl.tracking import observer
from tests.commands.conftest import Done, Lab, Trained, read_json

pytestmark = pytest.mark.slow


def altered(trained: Trained, folder: Path, file: str, /, **changes: object) -> Path:
    """A copy of the run in which one of its JSON files says something else."""
    shutil.copytree(trained.folder, folder)
    (folder / file).write_text(json.dumps(read_json(folder / file) | changes))
    return folder


@pytest.fixture(scope="module")
def again(lab: Lab, trained: Trained) -> Done:
    return lab.run("reproduce", f"run={trained.run_id[:8]}")


def test_the_same_command_gives_the_same_metrics(trained: Trained, again: Done) -> None:
    assert again.code == 0, again.err
    report = read_json(again.folder / "reproduction.json")
    assert report["differing"] == {}
    assert report["environment"] == []
    assert report["metrics"] > 20
    assert report["run"] == trained.run_id
    assert report["features"] == "recomputed"
    assert 0 <= report["features_deviation"] < 1e-6
    assert read_json(again.folder / "metrics.json")["bag"] == trained.metrics["bag"]


def test_it_is_a_run_of_its_own_that_says_what_it_repeats(trained: Trained, again: Done) -> None:
    record, earlier = read_json(again.folder / "run.json"), read_json(trained.folder / "run.json")
    assert record["mlflow_run_id"] != earlier["mlflow_run_id"]
    assert record["name"] == f"again: {earlier['name']}"


def test_a_different_value_is_a_failure_that_names_it(lab: Lab, trained: Trained, again: Done, tmp_path: Path) -> None:
    """Without training once more: the run `again` stands in for what it writes."""
    bag = trained.metrics["bag"]
    bag["metrics"]["auroc"]["value"] = 0.123
    line = [f"run={altered(trained, tmp_path / 'run', 'metrics.json', bag=bag)}", f"data_dir={lab.data_dir}"]
    log = tmp_path / "log"
    assert lab.forks.run(command, log, str(lab.root), line, str(again.folder)) == 1
    assert "the first is test/bag/auroc: 0.123 then" in log.read_text()
    assert list(read_json(again.folder / "reproduction.json")["differing"]) == ["test/bag/auroc"]


def command(root: str, arguments: list[str], folder: str) -> None:
    """`python -m lungtl.reproduce ARGUMENTS`, whose training is done and has left this folder."""
    os.chdir(root)
    sys.argv[1:] = arguments
    with mock.patch.object(observer, "run_tracked", return_value=Result(Path(folder), {})):
        command_line.main("reproduce", ReproduceConfig, reproduce.run)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("store_fingerprint", "dataset has changed"),
        ("split_fingerprint", "split has changed"),
        ("weights_fingerprint", "backbone.weights has changed"),
    ],
)
def test_another_start_is_refused_before_training(
    lab: Lab, trained: Trained, tmp_path: Path, key: str, what: str
) -> None:
    before = len(list(lab.data_dir.glob("runs/*")))
    folder = altered(trained, tmp_path / "run", "run.json", **{key: "0" * 64})
    assert what in lab.run("reproduce", f"run={folder}").complaint()
    assert len(list(lab.data_dir.glob("runs/*"))) == before


def test_another_environment_is_told_before_anything_else_is_done(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    folder = altered(trained, tmp_path / "run", "environment.json", commit="0" * 40, changed=True)
    (folder / "run.json").write_text(json.dumps(read_json(folder / "run.json") | {"store_fingerprint": "0" * 64}))
    done = lab.run("reproduce", f"run={folder}")
    assert "dataset has changed" in done.complaint()
    assert f"commit was {'0' * 40}, now it is " in done.err
    assert "the code had uncommitted changes then" in done.err


def test_a_cache_that_is_not_what_the_backbone_computes_is_refused(lab: Lab, trained: Trained) -> None:
    """All cached features of the session, doubled for a while as if they had been computed so."""
    files = list(lab.data_dir.glob("cache/features/*/features.npy"))
    assert files
    sums = [path.with_name(cache_folder.CHECKSUM) for path in files]
    sound = {path: path.read_bytes() for path in (*files, *sums)}
    before = len(list(lab.data_dir.glob("runs/*")))
    try:
        for path, checksum in zip(files, sums, strict=True):
            np.save(path, 2 * np.load(path))
            checksum.write_text(cache_folder._checksum(path))
        complaint = lab.run("reproduce", f"run={trained.folder}").complaint()
    finally:
        for path, content in sound.items():
            path.write_bytes(content)
    assert "deviates by 1 of the largest feature" in complaint
    assert len(list(lab.data_dir.glob("runs/*"))) == before


@pytest.mark.exhaustive
def test_another_environment_is_told_and_features_can_be_trusted(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    """And a run with quotes in its name, whose cached features are trusted."""
    folder = altered(trained, tmp_path / "run", "environment.json", torch="1.0.0")
    (folder / "run.json").write_text(json.dumps(read_json(folder / "run.json") | {"name": "it's \\'odd'"}))
    done = lab.run("reproduce", f"run={folder}", "features=cached")
    assert "torch was 1.0.0, now it is 2." in done.err
    assert read_json(done.folder / "run.json")["name"] == "again: it's \\'odd'"
    report = read_json(done.folder / "reproduction.json")
    assert (report["features"], report["features_deviation"]) == ("cached", None)


def test_a_strangers_run_starts_nothing(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    handler = f"{{class: logging.FileHandler, filename: {tmp_path / 'written'}}}"
    (folder / "config.yaml").write_text(
        f"{text}hydra: {{job_logging: {{handlers: {{x: {handler}}}}}}}\n", encoding="utf-8"
    )
    for line in (("reproduce", f"run={folder}"), ("train", f"resume={folder}", f"data_dir={lab.data_dir}")):
        assert "hydra is not a setting of lungtl" in lab.run(*line).complaint()
    assert not (tmp_path / "written").exists()


def test_a_run_that_did_not_finish(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert "did not finish" in lab.run("reproduce", f"run={tmp_path / 'run'}").complaint()
