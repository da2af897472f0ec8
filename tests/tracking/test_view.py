from __future__ import annotations

import json
from pathlib import Path

import pytest

from lungtl.tracking.backend import experiment_id, open_client
from lungtl.tracking.view import COLUMN_WIDTHS, write_view

pytestmark = pytest.mark.usefixtures("store")


def test_the_view_is_kept_with_the_experiment_as_its_share_button_does(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    experiment = experiment_id(client, "e", None, tmp_path)
    path = write_view(client, experiment)
    assert write_view(client, experiment) == path
    assert path == f"/#/experiments/{experiment}/runs?viewStateShareKey=lungtl&workflowType=machine_learning"
    state = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.lungtl"])
    assert state["selectedColumns"] == list(COLUMN_WIDTHS)
    assert state["columnOrder"][1:] == state["selectedColumns"]
    columns = {name.split("`")[1] for name in state["selectedColumns"]}
    assert {"test_auroc", "best_val_auroc", "best_epoch"} <= columns
    assert "val/auroc" not in columns  # of the last epoch, and would stand beside the test AUROC of the best one
    assert state["columnWidths"].keys() == set(state["columnOrder"])
