"""Results of `find_series`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lungtl.settings.errors import Refused
from lungtl.sources.ct.series import Series, find_series
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import UID, ramp, write_series

OTHER = f"{UID}.9"
Z = (-30.0, -27.5, -25.0, -22.5)


def only(root: Path) -> Series:
    """The only series in root, where nothing is refused."""
    series, refusals = find_series(root)
    assert refusals == []
    assert len(series) == 1
    return series[0]


def reasons(root: Path) -> dict[str, str]:
    """The refusals in root; a good series next to them must still be read."""
    write_series(root / "good", Z, uid=OTHER)
    series, refusals = find_series(root)
    assert [s.uid for s in series] == [OTHER]
    assert np.array_equal(read_volume(series[0]).hu, ramp(4) - 1024)
    assert all(refusal.remedy for refusal in refusals)
    assert len({refusal.item for refusal in refusals}) == len(refusals)
    return {refusal.item: refusal.reason for refusal in refusals}


def unreadable(root: Path) -> str:
    """Why the pixels of the only series in root are refused, although its headers are accepted."""
    with pytest.raises(Refused) as caught:
        read_volume(only(root))
    assert "\n" not in caught.value.reason
    return caught.value.reason
