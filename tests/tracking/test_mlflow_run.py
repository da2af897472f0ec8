from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.tracking.backend import open_client
from lungtl.tracking.mlflow_run import FOLDER, KEY, PARENT, MlflowRun, find_or_create_run
from tests.tracking.run_folder import config

pytestmark = pytest.mark.usefixtures("store")


def test_a_run_is_found_by_its_tags(tmp_path: Path) -> None:
    parent = find_or_create_run(config(), tmp_path, "sweep", {FOLDER: "/data/it's here"})
    child = find_or_create_run(config(), tmp_path, "a run", {PARENT: parent, KEY: "0a1b"})
    sibling = find_or_create_run(config(), tmp_path, "a run", {PARENT: parent, KEY: "2c3d"})
    assert len({parent, child, sibling}) == 3
    assert find_or_create_run(config(), tmp_path, "another name", {PARENT: parent, KEY: "0a1b"}) == child
    assert find_or_create_run(config(), tmp_path, "sweep", {FOLDER: "/data/it's here"}) == parent
    run = open_client(None, tmp_path).get_run(child)
    assert run.info.run_name == "a run"
    assert run.data.tags[PARENT] == parent
    assert run.data.tags["mlflow.source.name"] == "lungtl"


def test_values_are_recorded(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    run = MlflowRun(client, find_or_create_run(config(), tmp_path, "a run", {KEY: "0"}))
    run.params({f"key{i}": i for i in range(150)} | {"long": "x" * 9000})
    run.metrics({f"m{i}": i for i in range(150)})
    run.epoch({"loss": 0.5}, 3)
    run.tags({"backbone": "resnet18"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("text")
    run.artifacts(tmp_path / "folder", "figures")
    run.artifacts(tmp_path / "folder" / "file.txt")
    run.close("FAILED", 1_700_000_000_000)
    found = client.get_run(run.run_id)
    assert (found.info.status, found.info.end_time) == ("FAILED", 1_700_000_000_000)
    assert (found.data.params["key149"], found.data.params["long"], len(found.data.params)) == ("149", "x" * 6000, 151)
    assert (found.data.metrics["m149"], found.data.metrics["loss"]) == (149, 0.5)
    assert found.data.tags["backbone"] == "resnet18"
    assert [artifact.path for artifact in client.list_artifacts(run.run_id, "figures")] == ["figures/file.txt"]
    assert "file.txt" in {artifact.path for artifact in client.list_artifacts(run.run_id)}


def test_a_resumed_run_adds_only_what_is_new(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    first = MlflowRun(client, find_or_create_run(config(), tmp_path, "a run", {KEY: "0"}))
    first.params({"epochs": 2})
    for epoch, loss in enumerate([1.0, 0.5]):
        first.epoch({"loss": loss}, epoch)
    first.metrics({"auroc": 0.75, "brier": 0.25})
    resumed = MlflowRun(client, first.run_id, resumed=True)
    resumed.params({"epochs": 3, "seed": 0})  # MLflow refuses a changed param
    resumed.epoch({"loss": 0.4999, "new": 7.0}, 1)
    resumed.epoch({"loss": 0.25}, 2)
    resumed.metrics({"auroc": 0.875, "brier": 0.25})
    history = {key: [(m.step, m.value) for m in client.get_metric_history(first.run_id, key)]
               for key in ("loss", "new", "auroc", "brier")}  # fmt: skip
    assert history == {"loss": [(0, 1.0), (1, 0.5), (2, 0.25)], "new": [(1, 7.0)], "auroc": [(0, 0.75), (0, 0.875)],
                       "brier": [(0, 0.25)]}  # fmt: skip
    data = client.get_run(first.run_id).data
    assert data.params == {"epochs": "2", "seed": "0"}
    assert data.metrics["auroc"] == 0.875


def test_a_folder_takes_its_space_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifacts of a local store are further names of the run's files, or copies on another disk."""
    client = open_client(None, tmp_path)
    run = MlflowRun(client, find_or_create_run(config(), tmp_path, "a run", {KEY: "0"}))
    (tmp_path / "bundle" / "inside").mkdir(parents=True)
    files = [tmp_path / "bundle" / "weights", tmp_path / "bundle" / "inside" / "more"]
    for file in files:
        file.write_text("text")
    artifacts = tmp_path / "mlflow-artifacts" / run.run_id / "artifacts" / "bundle"
    sent = [artifacts / "weights", artifacts / "inside" / "more"]
    for _ in range(2):  # also when it is sent again
        run.artifacts(tmp_path / "bundle", "bundle")
        assert all(one.samefile(other) for one, other in zip(files, sent, strict=True))

    def no_links(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr("os.link", no_links)
    run.artifacts(tmp_path / "bundle", "bundle")
    assert [file.read_text() for file in sent] == ["text", "text"]
    assert not any(one.samefile(other) for one, other in zip(files, sent, strict=True))
