"""A round trip through a real PACS: the series, its report and its page end up in one study."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from lungtl.predict.dicom_out import write_dicom
from lungtl.predict.study import read_study
from lungtl.runs.model import Model
from tests.predict.dicom_result import PAGES, result_of, tiny_series
from tests.runs.test_model import bundle

pytest.importorskip("highdicom")
ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """Start Orthanc for this machine alone: HTTP on a free port, no DICOM port, no plugins. Yields its address."""
    assert ORTHANC is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": port, "Plugins": [],
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomServerEnabled": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "orthanc.log").open("w") as log:
        server = subprocess.Popen([ORTHANC, folder / "orthanc.json"], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                ask(f"{address}/system")
                break
            except urllib.error.URLError:
                assert server.poll() is None, (folder / "orthanc.log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def ask(url: str, data: bytes | None = None) -> bytes:
    content: bytes = OPENER.open(url, data, timeout=30).read()
    return content


def ask_json(url: str, data: bytes | None = None) -> Any:
    return json.loads(ask(url, data))


@pytest.mark.skipif(ORTHANC is None, reason="no Orthanc: apt-get install orthanc")
def test_series_report_and_page_are_filed_in_one_study_and_come_back(tmp_path: Path) -> None:
    series = tiny_series(tmp_path / "series")
    result = result_of(series, Model.open(bundle(tmp_path / "bundle")))
    report, page = write_dicom(result, read_study(series), tmp_path)
    with orthanc(tmp_path) as address:
        stored = {
            path: ask_json(f"{address}/instances", path.read_bytes())
            for path in (*(Path(file.path) for file in series.files), report, page)
        }
        assert {each["Status"] for each in stored.values()} == {"Success"}
        (study,) = ask_json(f"{address}/studies?expand")
        assert study["PatientMainDicomTags"]["PatientID"] == "PATIENT-0017"
        assert study["PatientMainDicomTags"]["PatientName"] == "Müller^Jürgen"
        modalities = [ask_json(f"{address}/series/{each}")["MainDicomTags"]["Modality"] for each in study["Series"]]
        assert sorted(modalities) == ["CT", "OT", "SR"]

        back = pydicom.dcmread(io.BytesIO(ask(f"{address}/instances/{stored[report]['ID']}/file")))
        assert back == pydicom.dcmread(report)
        tags = ask_json(f"{address}/instances/{stored[report]['ID']}/simplified-tags")
        assert tags["ContentTemplateSequence"][0]["TemplateIdentifier"] == "1500"
        references = json.dumps(tags["ContentSequence"])
        assert series.files[2].sop_uid in references
        assert series.files[1].sop_uid not in references

        frames = f"{address}/instances/{stored[page]['ID']}/frames"
        assert len(ask_json(frames)) == len(PAGES)
        raw = ask(f"{frames}/1/raw")  # what a viewer would draw
        np.testing.assert_array_equal(np.frombuffer(raw, np.uint8).reshape(PAGES[1].shape), PAGES[1])
