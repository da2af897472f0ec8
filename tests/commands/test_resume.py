"""`resume=RUN` after `kill -9`: the same run goes on, in its folder and in MLflow, to the end it would have had."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.tracking.backend import open_client
from tests.commands.conftest import MODEL, QUICK, Lab, read_csv, read_json
from tests.training import killing

pytestmark = pytest.mark.slow
EPOCHS, BATCHES = 2, 4  # of each epoch: 16 training scans, 4 in a batch


@pytest.fixture(scope="module")
def arguments(lab: Lab) -> list[str]:
    return [*lab.dataset(), *MODEL, *QUICK, "workers=1", "trainer.batch_size=4", f"trainer.max_epochs={EPOCHS}",
            f"data_dir={lab.data_dir}"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(lab: Lab, arguments: list[str]) -> Path:
    """The folder of a run that nobody killed."""
    return new_folder(lab, arguments, 0)


def new_folder(lab: Lab, arguments: list[str], code: int, *kill: Any) -> Path:
    """Run the command; the folder of the run that it began."""
    before = set(lab.data_dir.glob("runs/*"))
    log = lab.root / "log"
    assert lab.forks.run(killing.command, log, str(lab.root), arguments, *kill) == code, log.read_text()
    (folder,) = set(lab.data_dir.glob("runs/*")) - before
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def metrics(folder: Path) -> dict[str, Any]:
    document = read_json(folder / "metrics.json")
    del document["run"]["mlflow_run_id"], document["training"]["seconds"]
    return document


def same_end(client: Any, whole: Path, folder: Path) -> None:
    """Hold what a run left, in its folder and in MLflow, against the undisturbed one's."""
    for name in ("predictions.csv", "slices.csv", "split.csv", "epochs.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert metrics(folder) == metrics(whole)
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        expected, found = weights(whole / name), weights(folder / name)
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name
    model = "bundle/model.safetensors"
    assert (folder / model).read_bytes() == (whole / model).read_bytes()

    ids = [str(read_json(path / "run.json")["mlflow_run_id"]) for path in (whole, folder)]
    expected, found = (client.get_run(run_id) for run_id in ids)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == expected.data.metrics
    for key in ("lr", "train/loss", "val/loss", "val/auroc"):
        histories = [[(point.step, point.value) for point in client.get_metric_history(run_id, key)] for run_id in ids]
        assert histories[1] == histories[0]
        assert [step for step, _ in histories[1]] == list(range(1, EPOCHS + 1))
    assert found.data.params == expected.data.params
    assert found.data.tags.keys() >= {"dataset", "lungtl.kind", "lungtl.split_fingerprint"}
    kept = [{item.path for item in client.list_artifacts(run_id)} for run_id in ids]
    assert kept[1] == kept[0]


MOMENTS: dict[str, tuple[str, str, int]] = {
    "in the first epoch": ("BagModule", "training_step", 1),
    "told MLflow, not kept": ("Checkpoints", "on_train_epoch_end", 1),
    "trained, not evaluated": ("scoring", "predict_bags", 0),
}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(name, marks=[] if name == "told MLflow, not kept" else pytest.mark.exhaustive) for name in MOMENTS],
)
def test_a_killed_run_goes_on(lab: Lab, arguments: list[str], whole: Path, moment: str) -> None:
    folder = new_folder(lab, arguments, -signal.SIGKILL, *MOMENTS[moment])
    client = open_client(None, lab.data_dir)
    run_id = str(read_json(folder / "run.json")["mlflow_run_id"])
    assert client.get_run(run_id).info.status == "RUNNING"
    assert not (folder / "metrics.json").exists()

    log = lab.root / "log"
    code = lab.forks.run(killing.command, log, str(lab.root), [f"resume={folder}", f"data_dir={lab.data_dir}"])
    assert code == 0, log.read_text()
    assert ("no checkpoint yet" in log.read_text()) == (moment == "in the first epoch")
    assert read_json(folder / "run.json")["mlflow_run_id"] == run_id
    same_end(client, whole, folder)


@pytest.mark.exhaustive  # tests/commands/test_train.py resumes a run that ended
def test_a_resumed_run_records_its_settings_and_trains_longer(lab: Lab, arguments: list[str], whole: Path) -> None:
    folder = new_folder(lab, arguments, -signal.SIGKILL, "BagModule", "training_step", BATCHES + 2)
    more = [f"resume={folder}", f"data_dir={lab.data_dir}", f"trainer.max_epochs={EPOCHS + 1}"]
    log = lab.root / "log"
    assert lab.forks.run(killing.command, log, str(lab.root), more) == 0, log.read_text()
    client = open_client(None, lab.data_dir)
    run_id = str(read_json(folder / "run.json")["mlflow_run_id"])
    steps = [point.step for point in client.get_metric_history(run_id, "val/loss")]
    assert steps == list(range(1, EPOCHS + 2))
    settings = Path(client.download_artifacts(run_id, "config.yaml")).read_text()
    assert f"max_epochs: {EPOCHS + 1}" in settings
    assert len(read_csv(folder / "predictions.csv")) == len(read_csv(whole / "predictions.csv"))
