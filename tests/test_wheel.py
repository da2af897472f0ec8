"""A wheel in a fresh environment, and a user's own parts in the user's own folder (docs/extending.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lungtl import __version__
from tests.forked import Forks

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[1]
TINY = [
    "dataset=arrays", "dataset.images=crops.npz", "dataset.table=crops.csv", "image.size=32",
    "backbone.name=test_resnet", "backbone.weights=none",
    "trainer.max_epochs=1", "trainer.accelerator=cpu", "evaluation.untrained=false", "evaluation.figures=false",
    "evaluation.resamples=10", "tracking=none", "workers=1",
]  # fmt: skip
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with lungtl's wheel; the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("lungtl", "hydra_plugins", "conf", "experiments"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source)]
    subprocess.run(built, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the worked example of the docs."""
    folder = tmp_path_factory.mktemp("user") / "lab"
    shutil.copytree(CHECKOUT / "docs" / "example_lab", folder, ignore=shutil.ignore_patterns("__pycache__"))
    np.savez(folder / "crops.npz", np.random.default_rng(0).integers(-900, 300, (16, 32, 32)).astype(np.int16))
    rows = "".join(f"{i},p{i},{i % 2}\n" for i in range(16))
    (folder / "crops.csv").write_text(f"id,patient_id,label\n{rows}")
    return folder


@pytest.fixture(scope="module")
def run(environment: Path, lab: Path) -> Run:
    """Run a program of the environment in the user's folder."""

    def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LUNGTL_"))}
        done = subprocess.run(
            [str(environment / command[0]), *command[1:]], cwd=lab, env=variables, check=False, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    return run


def test_the_wheel_is_what_runs(run: Run, environment: Path) -> None:
    where = run("python", "-c", "import lungtl; print(lungtl.__file__)").stdout
    assert where.startswith(str(environment.parent))
    assert run("lungtl", "--version").stdout == run("python", "-m", "lungtl", "--version").stdout
    assert run("lungtl", "train", "--version").stdout == f"lungtl {__version__}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["lungtl", "trian"], "unknown command trian; did you mean train?"),
        (["lungtl", "train", "--config-dir", "conf", "aggregator=minee"], "no such option; did you mean mine?"),
    ],
)
def test_a_typo_is_one_line_with_the_nearest_name(run: Run, command: list[str], message: str) -> None:
    """Other typos are answered in tests/settings."""
    error = run(*command, code=2).stderr
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-dir=conf", "aggregator=mine", "aggregator.temperatur=1"], "did you mean aggregator.temperature?"),
        (["experiments=mien"], "did you mean mine?"),
    ],
)
def test_a_typo_beside_a_users_parts(warm: Forks, lab: Path, arguments: list[str], message: str) -> None:
    done = warm.command("lungtl.train", *arguments, folder=lab, environment={"PYTHONPATH": str(lab)})
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


OTHERS = """
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.frozen import Frozen
from lungtl.sources.arrays import ArraysSource
from lungtl.training.losses import BagAndSliceLoss

class Backbone(TimmBackbone): ...
class Freezing(Frozen): ...
class Loss(BagAndSliceLoss): ...
class Dataset(ArraysSource): ...
"""


@pytest.mark.exhaustive
def test_a_users_study_and_classes_in_a_sweep_of_several_processes(run: Run, lab: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (lab / "mylab" / "others.py").write_text(OTHERS)
    others = [f"{group}._target_=mylab.others.{group.title()}" for group in ("backbone", "freezing", "loss", "dataset")]
    run(
        "lungtl", "train", "-m", "--config-dir", "conf", "experiments=mine", "aggregator.temperature=1,2", *others,
        "sweep.name=mine", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *TINY,
    )  # fmt: skip
    runs = [path.parent for path in (lab / "data" / "sweeps" / "mine").glob("*/metrics.json")]
    bundles = [json.loads((folder / "bundle" / "config.json").read_text()) for folder in runs]
    assert {bundle["aggregator"]["_target_"] for bundle in bundles} == {"mylab.agg.Mine"}
    assert {bundle["backbone"]["_target_"] for bundle in bundles} == {"mylab.others.Backbone"}
    assert sorted(bundle["aggregator"]["temperature"] for bundle in bundles) == [1, 2]


def test_each_part_by_the_name_of_its_class(warm: Forks, lab: Path) -> None:
    (lab / "mylab" / "others.py").write_text(OTHERS)
    others = [f"{group}._target_=mylab.others.{group.title()}" for group in ("backbone", "freezing", "loss", "dataset")]
    line = ["aggregator._target_=mylab.agg.Mine", *others, *TINY]
    done = warm.command("lungtl.train", *line, folder=lab, environment={"PYTHONPATH": str(lab)})
    assert done.returncode == 0, done.stderr
    bundle = json.loads((lab / done.stdout.strip() / "bundle" / "config.json").read_text())
    assert bundle["aggregator"] == {"_target_": "mylab.agg.Mine"}
