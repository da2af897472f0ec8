from __future__ import annotations

from pathlib import Path

from lungtl.settings.schema import TrackingConfig
from lungtl.tracking.backend import open_client
from lungtl.tracking.identity import KEY, PARENT, run_of

CONFIG = TrackingConfig(enabled=True, uri=None, experiment="tests")


def test_a_run_is_found_again_by_its_tags_alone(tmp_path: Path) -> None:
    parent = run_of(CONFIG, tmp_path, "sweep", {"lungtl.folder": "/data/it's here"})
    child = run_of(CONFIG, tmp_path, "a run", {PARENT: parent, KEY: "0a1b"})
    other = run_of(CONFIG, tmp_path, "a run", {PARENT: parent, KEY: "2c3d"})
    assert len({parent, child, other}) == 3
    assert run_of(CONFIG, tmp_path, "another name", {PARENT: parent, KEY: "0a1b"}) == child
    assert run_of(CONFIG, tmp_path, "sweep", {"lungtl.folder": "/data/it's here"}) == parent
    run = open_client(None, tmp_path).get_run(child)
    assert run.info.run_name == "a run"
    assert run.data.tags[PARENT] == parent
    assert run.data.tags["mlflow.source.name"] == "lungtl"
