"""A folder of DICOM -> a scan's probability: compared with the bare minimum, and the peak memory of a long scan."""

from __future__ import annotations

import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import Measure, Row, alternate
from benchmarks.setting import RANDOM, composed

if TYPE_CHECKING:
    from lungtl.runs.model import Model

REPEATS = 3
MOST_TIMES, MOST_GB = 1.15, 2.0  # targets
LONG = 800  # slices of 512 x 512, 0.8 mm apart
TRAINED = {"name": "bench", "mlflow_run_id": None, "store": "none", "store_fingerprint": "none", "value_range": None,
           "crop": "none"}  # fmt: skip


def compare(folder: Path) -> list[Row]:
    """From the files of one series to its prediction, with warnings, in CPU seconds; the model is already loaded.

    The bare minimum is pydicom's decoding of the files, and the forward passes of timm's network alone on the images of
    all 1 mm slices, which are ready in memory. On one thread: several that wait for each other use CPU seconds as well.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            model = example_model(Path(scratch))
            native, slices, work = _whole(model, folder)
            own, bare = alternate(cpu_seconds(work), cpu_seconds(_bare(model, folder)), repeats=REPEATS)
            gb = _peak_of_a_long_scan(Path(scratch))
    finally:
        torch.set_num_threads(threads)
    return [
        {"what": f"folder to answer, {native} DICOM slices, {slices} of 1 mm, efficientnet_lite0",
         "cpu_seconds": f"{own:.2f}", "against": "pydicom's decoding and timm's network alone",
         "against_cpu_seconds": f"{bare:.2f}", "times": f"{own / bare:.2f}", "peak_gb": "",
         "target": f"{MOST_TIMES:g}"},
        {"what": f"folder to answer, {LONG} DICOM slices of 512 x 512, 0.8 mm apart", "cpu_seconds": "", "against": "",
         "against_cpu_seconds": "", "times": "", "peak_gb": f"{gb:.2f}", "target": f"{MOST_GB:g} GB"},
    ]  # fmt: skip


def cpu_seconds(work: Callable[[], object]) -> Measure:
    """Measure the CPU seconds of a piece of work."""

    def measure() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return measure


def example_model(scratch: Path) -> Model:
    """The default network with random weights, as a bundle with everything that a prediction is compared with."""
    from lungtl.bundle import Ranges, Reference, save_bundle
    from lungtl.bundle.ranges import NUMBERS, Quantiles
    from lungtl.bundle.reference import MOST_BAGS
    from lungtl.runs.model import Model
    from lungtl.training.build import build_classifier

    config = composed(scratch / "data", RANDOM)
    classifier = build_classifier(config, None)
    wide = Quantiles.of(np.linspace(0, 1000, 9))
    assert wide is not None
    ranges = Ranges(MOST_BAGS, "lidc", dict.fromkeys(NUMBERS, wide), {"kernel": {"STANDARD": 1}}, {})
    dim = classifier.projection.standardise.num_features
    known = np.random.default_rng(0).normal(size=(MOST_BAGS, dim)).astype(np.float32)
    reference = Reference(known, np.zeros(dim, np.float32), np.ones(dim, np.float32), 1.0, MOST_BAGS)
    folder = scratch / "bundle"
    save_bundle(classifier, config.aggregator, folder, TRAINED, "# card", ranges=ranges, reference=reference)
    return Model.open(folder)


def _whole(model: Model, folder: Path) -> tuple[int, int, Callable[[], object]]:
    from lungtl.sources.ct.series import find_series

    (series,), _ = find_series(folder)
    slices = model.predict_series(series).slices
    return len(series.files), len(slices), lambda: model.predict_series(find_series(folder)[0][0])


def _bare(model: Model, folder: Path) -> Callable[[], object]:
    import pydicom
    import pydicom.pixels
    import torch

    from lungtl.models.bag_classifier import CPU_CHUNK, image_chunks
    from lungtl.sources.ct.prepare import prepare_series
    from lungtl.sources.ct.series import find_series

    files = sorted(folder.glob("*.dcm"))
    volume, _ = prepare_series(find_series(folder)[0][0])
    network: Any = model.classifier.backbone
    with torch.inference_mode():
        chunks = image_chunks(model.classifier, [(volume.hu, volume.pixel_spacing_mm)], model.device)
        images = torch.cat([chunk.contiguous(memory_format=torch.channels_last) for chunk in chunks])

    def work() -> None:
        for file in files:
            _ = pydicom.dcmread(file).pixel_array
        with torch.inference_mode():
            for chunk in images.split(CPU_CHUNK):
                network.net(chunk)

    return work


def _peak_of_a_long_scan(scratch: Path) -> float:
    from tests.dicom_files import write_series

    stored = np.random.default_rng(0).integers(0, 2000, (512, 512)).astype(np.int16)
    folder = scratch / "long"
    write_series(folder, [0.8 * k for k in range(LONG)], np.broadcast_to(stored, (LONG, 512, 512)))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_gb, scratch / "bundle", folder).result()


def peak_gb(bundle: Path, folder: Path) -> float:
    """Peak memory of this process after it has predicted the series in a folder."""
    from lungtl.runs.model import Model
    from lungtl.settings.allocator import keep_freed_memory
    from lungtl.sources.ct.series import find_series

    keep_freed_memory()  # as the commands do
    Model.open(bundle).predict_series(find_series(folder)[0][0])
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e9
