from __future__ import annotations

import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from lungtl.doctor import environment
from lungtl.doctor.finding import Finding


def test_required_packages_are_checked_and_extras_are_not() -> None:
    findings = list(environment.check_packages())
    assert {f.status for f in findings} == {"PASS"}
    named = {f.what.split()[0] for f in findings}
    assert {"torch", "timm", "hydra-core", "mlflow", "pylidc", "pydicom", "packaging"} <= named
    assert "pytest" not in named


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("numpy>=2", "PASS", f"numpy {metadata.version('numpy')}"),
        ("numpy<1", "FAIL", "is not supported, expected <1"),
        ("no-such-package>=3", "FAIL", "is not installed"),
    ],
)
def test_package_versions_are_checked(line: str, status: str, words: str) -> None:
    finding = environment.check_package(Requirement(line))
    assert finding.status == status
    assert words in finding.what
    assert (line in finding.remedy) == (status == "FAIL")


@pytest.mark.parametrize(("version", "status"), [((3, 10, 2), "FAIL"), ((3, 13, 1), "PASS"), ((3, 14, 0), "FAIL")])
def test_python(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], status: str) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    (finding,) = environment.check_python()
    assert finding.status == status


def test_a_finding_is_one_line() -> None:
    assert str(Finding("WARN", "no GPU", "use the CPU")) == "WARN  no GPU  -> use the CPU"
    assert str(Finding("PASS", "numpy 2.4.6")) == "PASS  numpy 2.4.6"
