"""A bundle is registered once, however often the command runs, and leaves no copies behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.bundle import save_bundle
from lungtl.models.aggregators.max import Max
from lungtl.runs.model import Model
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import sha256
from lungtl.tracking.backend import experiment_id, open_client
from lungtl.tracking.mlflow_run import create_run
from lungtl.tracking.registry import STAGED, fetch_registered, register_bundle
from tests.models.tiny import WIDTH, tiny_classifier

BY_MAX = {parts.TARGET: "lungtl.models.aggregators.max.Max", "level": "embedding"}
PROVENANCE = {"name": "r", "mlflow_run_id": None, "store": "s", "store_fingerprint": "f", "value_range": None,
              "crop": "none"}  # fmt: skip


def test_a_second_call_moves_the_alias_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    client = open_client(None, tmp_path)
    run = create_run(client, experiment_id(client, "e", None, tmp_path), "r")
    bundle = tmp_path / "run" / "bundle"
    save_bundle(tiny_classifier(aggregator=Max(WIDTH, "embedding")), BY_MAX, bundle, PROVENANCE, "# card\n")
    (bundle.parent / STAGED).mkdir()  # left by a killed call
    assert register_bundle(client, run, bundle, "nodules", "best") == 1
    assert register_bundle(client, run, bundle, "nodules", "other") == 1
    assert len(client.search_model_versions("name = 'nodules'")) == 1
    assert {int(client.get_model_version_by_alias("nodules", alias).version) for alias in ("best", "other")} == {1}
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]
    first = client.get_model_version("nodules", "1").source
    save_bundle(tiny_classifier(aggregator=Max(WIDTH, "embedding")), BY_MAX, bundle, PROVENANCE, "# another card\n")
    assert register_bundle(client, run, bundle, "nodules", "best") == 2
    found = fetch_registered(client, "models:/nodules@best", tmp_path / "registered")
    assert found == tmp_path / "registered" / "nodules-v2"
    assert sha256(found / "config.json") == sha256(bundle / "config.json")
    Model.open(found)
    assert fetch_registered(client, "models:/nodules/1", tmp_path / "registered").name == "nodules-v1"
    with pytest.raises(LungtlError, match="models:/nodules@absent cannot be fetched"):
        fetch_registered(client, "models:/nodules@absent", tmp_path / "registered")
    with pytest.raises(UsageError, match="expected models:/NAME@ALIAS"):
        fetch_registered(client, "models:/../x", tmp_path / "registered")
    sources = [client.get_model_version("nodules", number).source for number in ("1", "2")]
    assert sources[0] == first != sources[1]  # the first version stays as it was
