"""What a run tells MLflow, as entries that can be written down, and sent now or later.

An entry may be sent twice and is recorded once: params and tags overwrite themselves, a metric carries the time at
which it was measured, an artifact its path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 100  # params that one MLflow request takes
LONGEST = 6000  # characters of a param
Entry = dict[str, Any]


def params(values: Mapping[str, Any]) -> Entry:
    """Settings, flat."""
    return {"kind": "params", "values": {key: str(value)[:LONGEST] for key, value in values.items()}}


def tags(values: Mapping[str, str]) -> Entry:
    """What runs are filtered by."""
    return {"kind": "tags", "values": {key: str(value) for key, value in values.items()}}


def metrics(values: Mapping[str, float], step: int, once: bool = False) -> Entry:
    """Numbers measured now; with `once`, those that MLflow has of this step already are left out when it is sent."""
    numbers = {key: float(value) for key, value in values.items()}
    return {"kind": "metrics", "values": numbers, "step": step, "ms": _now(), "once": once}


def artifacts(path: Path, under: str | None) -> Entry:
    """A file, or a folder's content; raises FileNotFoundError when there is none."""
    return {"kind": "artifacts", "path": str(path.resolve(strict=True)), "under": under}


def end(status: str) -> Entry:
    """The run ended now: FINISHED, FAILED or KILLED."""
    return {"kind": "end", "status": status, "ms": _now()}


def send(client: MlflowClient, run_id: str, entry: Entry) -> None:
    """Record one entry; raises `backend.store_errors()`."""
    from mlflow.entities import Metric, Param, RunTag

    kind = entry["kind"]
    if kind == "params":
        settings = [Param(key, value) for key, value in entry["values"].items()]
        for start in range(0, len(settings), BATCH):
            client.log_batch(run_id, params=settings[start : start + BATCH])
    elif kind == "tags":
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["values"].items()])
    elif kind == "metrics":
        numbers = [
            Metric(key, value, entry["ms"], entry["step"])
            for key, value in entry["values"].items()
            if not (entry["once"] and _has(client, run_id, key, entry["step"]))
        ]
        for start in range(0, len(numbers), BATCH):
            client.log_batch(run_id, metrics=numbers[start : start + BATCH])
    elif kind == "artifacts":
        put = client.log_artifacts if Path(entry["path"]).is_dir() else client.log_artifact
        put(run_id, entry["path"], entry["under"])
    else:
        client.set_terminated(run_id, entry["status"], entry["ms"])


def _has(client: MlflowClient, run_id: str, key: str, step: int) -> bool:
    return any(metric.step == step for metric in client.get_metric_history(run_id, key))


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
