from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from lungtl.settings.command_line import _hydra_flags, flags_and_overrides, plain
from lungtl.settings.errors import UsageError
from lungtl.settings.folders import EXPERIMENTS, conf_dir


def _run(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, runpy\n"
        "try:\n    runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=data_dir, timeout=60,
        env={"LUNGTL_DATA_DIR": str(data_dir), "PATH": ""}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "typo", "key"), [("train", "agregator=max", "aggregator"), ("predict", "modell=a,b", "model")]
)
def test_a_typo_exits_with_2_in_one_line_without_torch(tmp_path: Path, command: str, typo: str, key: str) -> None:
    done = _run(f"lungtl.{command}", typo, data_dir=tmp_path)
    assert done.returncode == 2
    message, torch_imported = done.stderr.strip().splitlines()
    assert message.startswith(f"error: unknown key {typo.partition('=')[0]}; did you mean {key}?")
    assert torch_imported == "False"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ([], []),
        (["--info"], ["--info=all"]),
        (["-i", "seed=1"], ["--info=all", "seed=1"]),
        (["--info", "config", "seed=1"], ["--info", "config", "seed=1"]),
        (["-m", "seed=0,1"], ["-m", "seed=0,1"]),
    ],
)
def test_hydras_flags_reach_it_as_it_reads_them(flags: list[str], given: list[str]) -> None:
    assert _hydra_flags(flags) == given


@pytest.mark.parametrize("flags", [["-m", "--cfg", "job"], ["--multirun", "--info"], ["--cfg=job", "-i"]])
def test_flags_that_exclude_each_other_are_one_line(flags: list[str]) -> None:
    with pytest.raises(UsageError, match="exclude each other; omit one"):
        _hydra_flags(flags)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EMFILE])
def test_what_the_system_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise OSError(number, "as the system says", "/a/file")

    with pytest.raises(SystemExit, match="1"):
        plain(refused)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot use /a/file (as the system says); ")


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    def missing() -> None:
        Path("/nowhere/at/all").read_text(encoding="utf-8")

    with pytest.raises(FileNotFoundError):
        plain(missing)


@pytest.mark.parametrize("run_id", ["33072852", "12e45678"])
def test_a_run_id_that_looks_like_a_number_is_looked_up(tmp_path: Path, run_id: str) -> None:
    done = _run("lungtl.register", f"run={run_id}", data_dir=tmp_path)
    assert done.returncode == 2
    assert f"no run {run_id}" in done.stderr


def test_help_lists_groups_and_settings_without_torch(tmp_path: Path) -> None:
    done = _run("lungtl.train", "--help", data_dir=tmp_path)
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for group in (
        "aggregator: attention, clam, conv1d, dsmil, gated_attention, gru, lse, max, mean, mean_max, multi_head, "
        "noisy_or, sm_attention, top_k, transformer, transmil",
        "experiments: " + ", ".join(sorted(path.stem for path in (conf_dir().parent / EXPERIMENTS).glob("*.yaml"))),
        "hydra/launcher: basic, joblib, ray_local, slurm, slurm_local",
        "hydra/sweeper: optuna hydra/sweeper/params: fine_tuning, head, last_blocks, none",
    ):
        assert group in words
    assert "trainer (default): max_epochs: 40" in words
    assert "patience: 10 # epochs without improvement before stopping" in words  # the comment of the file
    assert "_target_:" not in words
    assert done.stderr.strip() == "False"


def test_a_failure_exits_with_1(tmp_path: Path) -> None:
    done = _run("lungtl.prepare", "dataset=lidc", "dataset.root=/nowhere", data_dir=tmp_path)
    assert done.returncode == 1
    assert "error: dataset.root=/nowhere is not a folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "flags", "overrides"),
    [
        (["a=1", "--cfg", "job", "b=2"], ["--cfg", "job"], ["a=1", "b=2"]),
        (["a=1", "--config-dir", "conf", "-m", "~b"], ["--config-dir", "conf", "-m"], ["a=1", "~b"]),
        (["--config-dir=x", "a=1", "--info", "config"], ["--config-dir=x", "--info", "config"], ["a=1"]),
        ([], [], []),
    ],
)
def test_flags_may_stand_anywhere(arguments: list[str], flags: list[str], overrides: list[str]) -> None:
    assert flags_and_overrides(arguments) == (flags, overrides)


def test_a_flag_without_its_value_is_refused(tmp_path: Path) -> None:
    done = _run("lungtl.train", "seed=7", "--cfg", data_dir=tmp_path)
    assert done.returncode == 2
    assert "argument --cfg/-c: expected one argument" in done.stderr


def test_the_composed_config_is_shown_wherever_the_flags_stand(tmp_path: Path) -> None:
    flags = ["--config-dir", str(tmp_path), "--cfg", "job"]
    done = _run("lungtl.train", "seed=7", *flags, "aggregator=max", data_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seed: 7\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aggregator=men", "--cfg", "job"], "aggregator/men"),
        (["seed=0,1"], "seed=0,1 has several values"),
    ],
)
def test_a_command_line_that_hydra_would_refuse_at_length_is_one_line(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = _run("lungtl.train", *arguments, data_dir=tmp_path)
    assert done.returncode == 2
    message, torch_imported = done.stderr.strip().splitlines()
    assert message.startswith("error: ")
    assert said in message
    assert torch_imported == "False"
    assert done.stdout == ""
