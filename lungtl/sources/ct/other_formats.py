"""Files that may contain scans, but not as DICOM: named, so that they are not overlooked."""

from __future__ import annotations

from pathlib import Path

from lungtl.settings.errors import Refused

VOLUMES = {".nii": "NIfTI", ".nii.gz": "NIfTI", ".mhd": "MetaImage", ".mha": "MetaImage", ".nrrd": "NRRD",
           ".nhdr": "NRRD"}  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".iso")


def other_format(path: Path) -> Refused | None:
    """The refusal of a volume in another format, or of an archive, by the file's name; None for other files."""
    name = path.name.lower()
    for suffix, kind in VOLUMES.items():
        if name.endswith(suffix):
            remedy = "use the DICOM series it was made from, or save its slices as an array and use dataset=arrays"
            return Refused(f"a {kind} volume, which is not read", remedy)
    for suffix in ARCHIVES:
        if name.endswith(suffix):
            return Refused(f"a {suffix} archive, which is not read", "unpack it")
    return None
