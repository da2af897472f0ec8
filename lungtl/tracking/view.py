"""The columns that MLflow's UI shows, stored as a shared view of the experiment, as the UI's Share button does.

The UI uses its own defaults for anything in the view that it does not know, so a later MLflow still opens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "lungtl"
TAG = f"mlflow.sharedViewState.{KEY}"
RUN_NAME = "attributes.`Run Name`"  # always shown, as are start time and duration
COLUMN_WIDTHS = {  # pixels, by the UI's name of the column
    "metrics.`test_auroc`": 110,
    "tags.`lungtl.auroc`": 170,  # the same with its interval
    "metrics.`best_val_auroc`": 125,  # not val/auroc: that is the last epoch's, and the best one is tested
    "metrics.`best_epoch`": 100,
    "metrics.`trainable_parameters`": 150,
    "tags.`dataset`": 90,
    "tags.`backbone`": 140,
    "tags.`freezing`": 100,
    "tags.`aggregator`": 110,
    "tags.`sweep`": 180,
}


def write_view(client: MlflowClient, experiment: str) -> str:
    """Store the view with an experiment, given by its id; returns its page's path below the UI's address."""
    state = {
        "selectedColumns": list(COLUMN_WIDTHS),
        "columnOrder": [RUN_NAME, *COLUMN_WIDTHS],
        "columnWidths": {RUN_NAME: 340, **COLUMN_WIDTHS},
    }
    client.set_experiment_tag(experiment, TAG, json.dumps(state))
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"
