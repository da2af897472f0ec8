"""The columns that MLflow's UI shows: a view that it keeps with the experiment, as its own Share button does.

The UI takes what it knows of the view and its own defaults for the rest, so a later MLflow that names something
differently shows its own columns.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "lungtl"
TAG = f"mlflow.sharedViewState.{KEY}"
RUN_NAME = "attributes.`Run Name`"  # always shown, as are the time of the start and the duration
# name of a column, as the UI writes it -> its width in pixels
COLUMNS = {
    "metrics.`test/bag/auroc`": 110,
    "metrics.`test/bag/auroc_low`": 135,
    "metrics.`test/bag/auroc_high`": 135,
    "metrics.`best/val_auroc`": 125,  # val/auroc is the last epoch's, the test AUROC the best one's
    "metrics.`best_epoch`": 100,
    "metrics.`trainable_parameters`": 150,
    "tags.`dataset`": 90,
    "tags.`backbone`": 140,
    "tags.`freezing`": 100,
    "tags.`aggregator`": 110,
    "tags.`sweep`": 180,
}


def write_view(client: MlflowClient, experiment: str) -> str:
    """Keep the view with an experiment.

    Args:
        client: of the store.
        experiment: its id.

    Returns:
        The path of its page, below the UI's address.
    """
    state = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": [RUN_NAME, *COLUMNS],
        "columnWidths": {RUN_NAME: 340, **COLUMNS},
    }
    client.set_experiment_tag(experiment, TAG, json.dumps(state))
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"
