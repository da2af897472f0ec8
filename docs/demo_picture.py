"""Draw docs/demo.png from the latest run of `make demo`; `make demo-picture` does both."""

from __future__ import annotations

from pathlib import Path

from lungtl.data.store.reader import Store
from lungtl.evaluation.figures import montage, save
from lungtl.runs.experiment import Result
from lungtl.runs.figures import SLICE_NAMES, representative_slice, windowed
from lungtl.runs.folder import read_record

DATA = Path("data")
EACH = 4  # scans per row
LUNG_WINDOW = (-600, 1500)  # centre, width in HU
TITLE = "Synthetic test scans: highest probabilities (top), lowest (bottom)\nmiddle slice of each"


def main() -> None:
    """Draw the scans with the highest and the lowest probabilities."""
    folder = max(path.parent for path in (DATA / "runs").glob("*/metrics.json"))
    result = Result(folder, {})
    store = Store(DATA / "stores" / read_record(folder)["store"])
    slices = {str(scan): rows for scan, rows in result.slices.groupby("bag_id")}
    scans = result.predictions.sort_values("probability", ascending=False)
    images, captions, labels = [], [], []
    for scan in [*scans.head(EACH).itertuples(), *scans.tail(EACH).itertuples()]:
        middle = representative_slice(slices[str(scan.bag_id)], weighted=False)
        images.append(windowed(store.voxels(str(scan.bag_id))[middle.slice_index], LUNG_WINDOW))
        captions.append(f"probability {scan.probability:.2f}\nslice: {SLICE_NAMES[middle.label]}")
        labels.append(int(middle.label))
    save(montage(images, captions, labels, TITLE), Path(__file__).with_name("demo.png"))


if __name__ == "__main__":
    main()
