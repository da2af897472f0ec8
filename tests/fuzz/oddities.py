"""Series that are legal DICOM but odd, drawn from a grammar: what must be read exactly, and what must be refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from lungtl.settings.errors import LungtlError
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume, resample_z
from tests.dicom_files import UID, ct_slice, remove_preamble
from tests.fuzz.confirm import confirm

ROWS, COLUMNS, INTERCEPT = 5, 4, -1024
SECRETS = ("DOE^JOHN", "ROE^JANE", "MRN-471", "MRN-472")  # never in a message


@dataclass
class Slice:
    """One file to be written."""

    dataset: FileDataset
    hu: NDArray[np.int16]  # int16 [ROWS, COLUMNS], what must be read
    bare: bool = False  # neither preamble nor file meta information


@dataclass
class Odd:
    """A series, and what must become of it."""

    rng: np.random.Generator
    slices: list[Slice]  # by ascending z
    refusals: list[str] = field(default_factory=list)  # words of the refusal, one of which must be given; [] if none
    names: list[str] = field(default_factory=list)  # of the oddities
    suffix: str = ".dcm"

    def set(self, keyword: str, values: Sequence[object]) -> None:
        """Write a value to each slice."""
        for one, value in zip(self.slices, values, strict=True):
            setattr(one.dataset, keyword, value)

    def some(self) -> list[Slice]:
        """At least one of the slices."""
        count = int(self.rng.integers(1, len(self.slices) + 1))
        return [self.slices[k] for k in self.rng.choice(len(self.slices), count, replace=False)]

    def split(self) -> list[int]:
        """0 for the lower slices, 1 for the upper ones."""
        n = len(self.slices)
        cut = int(self.rng.integers(1, n))
        return [int(k >= cut) for k in range(n)]


Oddity = Callable[[Odd], "str | None"]


# Read exactly


def no_extension(odd: Odd) -> None:
    odd.suffix = ""


def no_preamble(odd: Odd) -> None:
    for one in odd.some():
        one.bare = True


def acquisitions_in_sequence(odd: Odd) -> None:
    keyword = str(odd.rng.choice(["AcquisitionNumber", "SeriesNumber", "KVP"]))
    odd.set(keyword, [(80, 120)[k] for k in odd.split()])


def time_passes(odd: Odd) -> None:
    odd.set("AcquisitionTime", [f"12000{k}.5" for k in range(len(odd.slices))][:: int(odd.rng.choice([1, -1]))])


def stated_units(odd: Odd) -> None:
    odd.set("RescaleType", [str(odd.rng.choice(["HU", "US", ""])) for _ in odd.slices])


def excess_bytes(odd: Odd) -> None:
    for one in odd.some():
        one.dataset.PixelData += bytes([int(odd.rng.choice([0, 255]))]) * (2 * int(odd.rng.integers(1, 10)))


def padding_at_an_extreme(odd: Odd) -> None:
    for one in odd.some():
        d = one.dataset
        value = -32768 if d.PixelRepresentation else 65535
        stored = np.frombuffer(d.PixelData[: 2 * ROWS * COLUMNS], "<i2" if value < 0 else "<u2").copy()
        corner = np.arange(ROWS * COLUMNS) < 3
        stored[corner] = value
        d.PixelData = stored.tobytes() + d.PixelData[2 * ROWS * COLUMNS :]
        d.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
        hu = value * float(d.RescaleSlope) + INTERCEPT
        one.hu.ravel()[corner] = np.rint(hu) if -32768 <= np.rint(hu) <= 32767 else -32768


def copies(odd: Odd) -> None:
    odd.slices += copy.deepcopy(odd.some())


# Refused


def acquisitions_alternate(odd: Odd) -> str:
    keyword = str(odd.rng.choice(["AcquisitionNumber", "SeriesNumber", "KVP", "SliceThickness"]))
    odd.set(keyword, [k % 2 + 1 for k in range(len(odd.slices))])
    return keyword


def two_of_a_kind(odd: Odd) -> str:
    keyword, values = [
        ("ConvolutionKernel", ("B30f", "B70f")), ("StudyInstanceUID", (f"{UID}.81", f"{UID}.82")),
        ("FrameOfReferenceUID", (f"{UID}.91", f"{UID}.92")), ("PatientID", SECRETS[2:]), ("PatientName", SECRETS[:2]),
    ][int(odd.rng.integers(5))]  # fmt: skip
    odd.set(keyword, [values[k] for k in odd.rng.permutation(odd.split())])
    return keyword


def other_units(odd: Odd) -> str:
    for one in odd.some():
        one.dataset.RescaleType = str(odd.rng.choice(["Z_EFF", "MGML", "OD", "ED", "PCT"]))
    return "RescaleType"


def no_slope(odd: Odd) -> str:
    for one in odd.some():
        one.dataset.RescaleSlope = "0"
    return "RescaleSlope 0"


def same_or_near_position(odd: Odd) -> str:
    one = copy.deepcopy(odd.slices[int(odd.rng.integers(len(odd.slices)))])
    step = odd.slices[1].dataset.ImagePositionPatient[2] - odd.slices[0].dataset.ImagePositionPatient[2]
    one.dataset.ImagePositionPatient[2] += float(odd.rng.choice([0, 0.004, 0.02 * step]))
    one.dataset.SOPInstanceUID = one.dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["copy"])
    if odd.rng.random() < 0.5:
        one.dataset.PixelData = bytes(ROWS * COLUMNS * 2)
    odd.slices.append(one)
    return "two slices at z"


def swapped_ids(odd: Odd) -> str:
    one, other = odd.rng.choice(len(odd.slices), 2, replace=False)
    odd.slices[one].dataset.SOPInstanceUID = odd.slices[other].dataset.SOPInstanceUID
    return "same SOPInstanceUID"


def unexplained_bytes(odd: Odd) -> str:
    for one in odd.some():
        one.dataset.PixelData += b"\1\2"
    return "are not padding"


READ: tuple[Oddity, ...] = (
    no_extension, no_preamble, acquisitions_in_sequence, time_passes, stated_units, excess_bytes, padding_at_an_extreme,
    copies,
)  # fmt: skip
REFUSED: tuple[Oddity, ...] = (
    acquisitions_alternate, two_of_a_kind, other_units, no_slope, same_or_near_position, swapped_ids, unexplained_bytes,
)  # fmt: skip


def write_odd(folder: Path, seed: int) -> Odd:
    """Write one series with a few oddities; the seed decides everything."""
    rng = np.random.default_rng(seed)
    odd = Odd(rng, _plain(rng))
    chosen = [READ[k] for k in sorted(rng.choice(len(READ), int(rng.integers(0, 4)), replace=False))]  # copies last
    if rng.random() < 0.5:
        chosen.insert(len(chosen) - (copies in chosen), REFUSED[int(rng.integers(len(REFUSED)))])
    for oddity in chosen:
        words = oddity(odd)
        odd.names.append(oddity.__name__)
        odd.refusals += [words] if words else []
    folder.mkdir(parents=True, exist_ok=True)
    for number, k in enumerate(rng.permutation(len(odd.slices))):
        _write(odd.slices[k], folder / f"{number}{odd.suffix}")
    return odd


def _plain(rng: np.random.Generator) -> list[Slice]:
    """Slices without oddities, each with its own slope."""
    signed, step = rng.random() < 0.5, float(rng.choice([0.5, 1.25, 2.5]))
    slices = []
    for k in range(int(rng.integers(3, 7))):
        stored = rng.integers(0, 4096, (ROWS, COLUMNS)).astype(np.int16 if signed else np.uint16)
        slope = float(rng.choice([1.0, 1.0, 0.5]))
        dataset = ct_slice(UID, k, k * step, stored)
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:g}", f"{INTERCEPT}"
        slices.append(Slice(dataset, np.rint(stored * slope + INTERCEPT).astype(np.int16)))
    return slices


def _write(one: Slice, path: Path) -> None:
    one.dataset.save_as(path, enforce_file_format=True)
    if one.bare:
        remove_preamble(path)


def read_as_expected(root: Path, odd: Odd) -> str:
    """'volume' if the series was read exactly, 'refused' if it was refused for its oddity; else AssertionError."""
    found, refusals = find_series(root)
    said = " ".join(f"{refusal.reason}; {refusal.remedy}" for refusal in refusals)
    assert not any(secret in said for secret in SECRETS), said
    if odd.refusals:
        assert not found, f"{odd.names} was read"
        assert any(words in said for words in odd.refusals), said
        return "refused"
    (series,) = found
    assert all("duplicate files skipped" in refusal.reason for refusal in refusals), said
    try:
        volume = read_volume(series)
    except LungtlError as error:
        raise AssertionError(f"{odd.names}: {error}") from error
    truth = {float(one.dataset.ImagePositionPatient[2]): one.hu for one in odd.slices}
    assert np.array_equal(volume.z_mm, sorted(truth))
    assert np.array_equal(volume.hu, [truth[z] for z in sorted(truth)])
    confirm(series, volume, resample_z(volume))
    return "volume"
