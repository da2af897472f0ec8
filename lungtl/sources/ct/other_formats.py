"""Files that may contain scans, but not as DICOM: named, so that they are not overlooked."""

from __future__ import annotations

from pathlib import Path

from lungtl.settings.errors import Refused

NRRD = (".nrrd", ".nhdr")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".iso")


def other_format(path: Path) -> Refused | None:
    """The refusal of an NRRD volume, or of an archive, by the file's name; None for other files."""
    name = path.name.lower()
    if name.endswith(NRRD):
        return Refused("an NRRD volume, which is not read", "save it as .nii.gz or .mha, or use its DICOM series")
    for suffix in ARCHIVES:
        if name.endswith(suffix):
            return Refused(f"a {suffix} archive, which is not read", "unpack it")
    return None
