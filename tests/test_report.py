"""A report that is made again replaces the one in the sweep's own run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lungtl.report import run, upload
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import ReportConfig
from lungtl.settings.sections import TrackingConfig
from lungtl.sweeps.parent import write_parent
from lungtl.tracking.backend import DATABASE, experiment_id, open_client
from tests.sweeps.folds.test_pooled import FOLDS, run_folder
from tests.sweeps.report.sweeps import bags, probabilities, write_run

TRACKING = TrackingConfig(enabled=True, uri=None, experiment="e")


def swept(data_dir: Path, run_id: str | None) -> Path:
    sweep = data_dir / "sweeps" / "s"
    write_run(sweep / "0", bags("test", probabilities(1, 0)), None)
    write_parent(sweep, run_id, 1, "val/loss")
    return sweep


def config(data_dir: Path, out: Path | None = None, tracking: TrackingConfig = TRACKING) -> ReportConfig:
    return ReportConfig(data_dir=data_dir, sweep="s", out=out, title=None, tracking=tracking)


def test_a_report_in_the_sweeps_folder_goes_to_the_sweeps_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_client(None, tmp_path)
    run_id = client.create_run(experiment_id(client, "e", None, tmp_path)).info.run_id
    sweep = swept(tmp_path, run_id)

    run(config(tmp_path, tmp_path / "elsewhere"))
    assert client.list_artifacts(run_id) == []
    run(config(tmp_path))
    found = {Path(item.path).name for item in client.list_artifacts(run_id, "report")}
    assert found == {path.name for path in (sweep / "report").iterdir()}
    assert "report.html" in found
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "elsewhere"), str(sweep / "report")]


@pytest.mark.parametrize(
    ("uri", "message"), [(None, "there is no"), ("http://127.0.0.1:9", "cannot be used")], ids=["no store", "no server"]
)
def test_a_store_that_cannot_be_reached_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uri: str | None, message: str
) -> None:
    sweep = swept(tmp_path, "0" * 32)
    upload(sweep, config(tmp_path, tracking=TRACKING.model_copy(update={"uri": uri})))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "not uploaded to MLflow" in record.getMessage()
    assert message in record.getMessage()
    assert not (tmp_path / DATABASE).exists()


def test_a_run_that_the_store_does_not_have_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_client(None, tmp_path)
    sweep = swept(tmp_path, "0" * 32)
    (sweep / "report").mkdir()
    upload(sweep, config(tmp_path))
    assert "not uploaded to MLflow (" in caplog.text


def test_a_sweep_without_a_run_needs_no_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for run_id, tracking in ((None, TRACKING), ("0" * 32, TRACKING.model_copy(update={"enabled": False}))):
        sweep = swept(tmp_path / str(run_id), run_id)
        upload(sweep, config(tmp_path, tracking=tracking))
    assert caplog.records == []


def test_the_report_of_a_cross_validation_pools_its_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweeps" / "s"
    for part in range(FOLDS):
        run_folder(sweep, part, part)
    started = {"hydra": {"job": {"config_name": "crossval"}, "overrides": {"task": []}}, "sweep": {"ensemble": False}}
    (sweep / "multirun.yaml").write_text(json.dumps(started))
    run(config(tmp_path))
    assert capsys.readouterr().out == f"{sweep / 'pooled'}\n"
    assert (sweep / "pooled" / "report.html").is_file()
    assert not (sweep / "report").exists()
    with pytest.raises(UsageError, match=r"is a cross-validation, .* omit out= and title="):
        run(config(tmp_path, tmp_path / "elsewhere"))
