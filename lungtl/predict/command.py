"""What the command does: all series or points of an input, one after the other, with all models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lungtl.predict.about import about
from lungtl.predict.dicom_out import check_installed, write_dicom
from lungtl.predict.document import SeriesEntry, model_facts, series_entry
from lungtl.predict.inputs import Found, find_input
from lungtl.predict.models import NamedModel, open_models, split_references
from lungtl.predict.outputs import Outputs
from lungtl.predict.page import make_page
from lungtl.predict.pictures import Planes
from lungtl.predict.points import Cut, predict_point
from lungtl.predict.result import SeriesResult
from lungtl.predict.scans import predict_scan
from lungtl.predict.study import read_study
from lungtl.settings.errors import Refused
from lungtl.settings.schema import PredictConfig
from lungtl.settings.version import VERSION
from lungtl.sources.base import fingerprint
from lungtl.sources.ct.cut import locate
from lungtl.sources.ct.series import Series, check_gap
from lungtl.sources.ct.volume import Volume, read_volume
from lungtl.sources.points import Point, read_points
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A series that is to be predicted as a whole, or a nodule of it."""

    key: str  # names its folder
    series: Series
    path: str
    point: Point | None
    fingerprint: str  # of all that decides the result


def predict_all(config: PredictConfig, created: str) -> Outputs:
    """Predict what the config names, and write the outputs; what they have already is kept.

    Args:
        config: of the command.
        created: date of the predictions.

    Raises:
        LungtlError: a model, the input or the table of points cannot be used.
    """
    if config.dicom_out:
        check_installed()
    points = None if config.points is None else read_points(config.points, labelled=False)
    models = open_models(split_references(config.model), config.data_dir, config.accelerator, config.trust or ())
    for each in models:
        each.model.check_hu("scan" if points is None else "nodule")
        if points is not None:
            Cut.of(each.model)
    outputs = Outputs(config.output, [model_facts(each) for each in models])
    with find_input(config.input, config.output, config.max_gb, config.follow_links) as found:
        tasks = find_tasks(config, found, points, models, outputs)
        kept = {
            task.key: entry for task in tasks if (entry := outputs.finished(task.key, task.fingerprint)) is not None
        }
        outputs.start(list(kept.values()))
        if kept:
            log.info("%d of %d are complete already", len(kept), len(tasks))
        predictor = Predictor(models, config.max_gap_mm, created, config.dicom_out)
        try:
            with bar("predicting") as progress:
                for number, task in enumerate(tasks, start=1):
                    if task.key not in kept:
                        try:
                            predictor.predict(task, outputs)
                        except Refused as refused:
                            outputs.refuse(task.key, refused.reason, remedy_of(refused.remedy))
                    progress(number, len(tasks))
        except BaseException:  # Ctrl-C included
            outputs.write_tables(complete=False)
            raise
        outputs.write_tables(complete=True)
    return outputs


def find_tasks(
    config: PredictConfig,
    found: Found,
    points: dict[str, list[Point]] | None,
    models: Sequence[NamedModel],
    outputs: Outputs,
) -> list[Task]:
    """What is to be predicted; adds the rest to what is refused."""
    for refusal in found.refusals:
        outputs.refuse(refusal.item, refusal.reason, remedy_of(refusal.remedy))
    common = [VERSION, config.max_gap_mm, config.dicom_out, [each.fingerprint for each in models]]

    def task(series: Series, point: Point | None) -> Task:
        key = series.uid if point is None else f"{series.uid}_{point.number}"
        place = None if point is None else [*point.position_mm, str(point.diameter_mm)]
        return Task(key, series, found.paths[series.uid], point, fingerprint([*common, series.fingerprint, place]))

    if points is None:
        return [task(series, None) for series in found.series]
    assert config.points is not None
    table = config.points.name
    for uid in sorted(points.keys() - {series.uid for series in found.series} - {one.item for one in found.refusals}):
        outputs.refuse(uid, f"is in {table}, but not in the input", "add the series, or remove its points")
    for series in found.series:
        if series.uid not in points:
            outputs.refuse(series.uid, f"has no point in {table}", "no action required: it is skipped")
    return [task(series, point) for series in found.series for point in points.get(series.uid, ())]


class Predictor:
    """Predicts one task after the other; the volume of a series is read once for all its points."""

    def __init__(self, models: Sequence[NamedModel], max_gap_mm: float, created: str, dicom_out: bool) -> None:
        self.models, self.max_gap_mm, self.created, self.dicom_out = models, max_gap_mm, created, dicom_out
        self.about = [about(each) for each in models]
        self.phantom = any(each.phantom for each in models)
        ranges = models[0].model.ranges if len(models) == 1 else None
        self.reference = {} if ranges is None else ranges.scores.get("val", {})
        self._native: tuple[str, Volume] | None = None

    def predict(self, task: Task, outputs: Outputs) -> None:
        """Predict a series or nodule and write its files; raises Refused."""
        study = read_study(task.series) if self.dicom_out else None
        result, planes = self._predict(task)
        page = make_page(result, planes, self.about, self.phantom, self.reference, self.created)
        if study is not None:
            write_dicom(page.result, study, outputs.place(task.key))
        entry = series_entry(page.result, self.created, task.fingerprint)
        outputs.add(page.result, entry, page.html, page.picture)
        log.info("%s", summarise(entry))

    def _predict(self, task: Task) -> tuple[SeriesResult, Planes]:
        if task.point is None:
            result, volume = predict_scan(self.models, task.series, task.path, self.max_gap_mm)
            return result, Planes.of(volume)
        if self._native is None or self._native[0] != task.series.uid:
            check_gap(task.series, self.max_gap_mm)
            self._native = None  # two volumes need twice the memory
            self._native = (task.series.uid, read_volume(task.series))
        native = self._native[1]
        row, column = locate(task.series, task.point.position_mm)
        result = predict_point(self.models, task.series, task.path, native, task.point)
        rows, columns = task.series.shape
        return result, Planes.of(native, (min(max(round(row), 0), rows - 1), min(max(round(column), 0), columns - 1)))


def summarise(entry: SeriesEntry) -> str:
    """One line for the terminal."""
    parts = [f"probability {entry.probability:.3f}"]
    if entry.calibrated is not None:
        parts.append(f"calibrated {entry.calibrated:.3f}")
    if entry.spread is not None:
        parts.append(f"spread {entry.spread:.3f}")
    if len(entry.models) == 1 and (decision := entry.models[0].decisions.get("youden")) is not None:
        parts.append(f"{'positive' if decision.positive else 'negative'} at {decision.threshold:.3f}")
    if entry.warnings:
        parts.append(f"warnings: {' '.join(warning.code for warning in entry.warnings)}")
    return f"{entry.key}: {', '.join(parts)}"


def remedy_of(remedy: str) -> str:
    """A remedy in the options of this command: the model decides about crops."""
    return remedy.replace("set dataset.crop=none, or ", "").replace("dataset.max_gap_mm=", "max_gap_mm=")
