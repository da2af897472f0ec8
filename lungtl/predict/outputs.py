"""The files of a prediction, written series by series: what is complete stays when the command is killed.

`KEY/prediction.json` is written last, so a folder that has it is complete; a rerun with the same output skips it.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from pydantic import ValidationError

from lungtl.data.store.files import explain_write_errors, whole_file
from lungtl.data.tables import write_table
from lungtl.predict.document import Document, ModelFacts, RefusedEntry, SeriesEntry
from lungtl.predict.result import Decision, SeriesResult
from lungtl.settings.errors import LungtlError

PREDICTIONS, SLICES, QUARANTINE, DOCUMENT = "predictions.csv", "slices.csv", "quarantine.csv", "predictions.json"
RECORD, PAGE, PICTURE = "prediction.json", "report.html", "report.png"
LOCK = "status.lock"
PERIOD_S = 5.0  # between two versions of the tables of all series, which are written as a whole
SLICE_COLUMNS = ("series_uid", "nodule", "index", "z_mm", "sop_instance_uid", "instance_number", "weight",
                 "p_non_nodule", "p_benign", "p_malignant")  # fmt: skip


class Outputs:
    """The output folder of a command.

    Args:
        folder: is created.
        models: of the command.
    """

    def __init__(self, folder: Path, models: list[ModelFacts]) -> None:
        self.folder = folder
        self.models = models
        self.series: dict[str, SeriesEntry] = {}
        self.refused: list[RefusedEntry] = []
        self._written = 0.0

    def place(self, key: str) -> Path:
        """The folder of a series or nodule; its key is the id of a series, which `find_series` checks, and a number."""
        return self.folder / key

    def finished(self, key: str, fingerprint: str) -> SeriesEntry | None:
        """What an earlier command has written, if its input, models and options were the same."""
        path = self.place(key) / RECORD
        if not path.is_file():
            return None
        try:
            entry = SeriesEntry.model_validate_json(path.read_bytes())
        except ValidationError:  # of another version of lungtl
            return None
        return entry if entry.input == fingerprint else None

    def start(self, kept: Sequence[SeriesEntry]) -> None:
        """Begin with the entries of an earlier command that are kept, and their rows of slices.csv."""
        self.series = {entry.key: entry for entry in kept}
        path = self.folder / SLICES
        names = {(entry.series_uid, "" if entry.point is None else str(entry.point.number)) for entry in kept}
        rows = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                next(reader, None)
                rows = [row for row in reader if len(row) == len(SLICE_COLUMNS) and (row[0], row[1]) in names]
        with whole_file(path, self.folder) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            csv.writer(text).writerows([SLICE_COLUMNS, *rows])
            text.detach()

    def add(self, result: SeriesResult, entry: SeriesEntry, page: str, picture: bytes) -> None:
        """Write all files of one series or nodule, then its record, then the tables of all."""
        place = self.place(entry.key)
        with explain_write_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            (place / RECORD).unlink(missing_ok=True)
            (place / PAGE).write_text(page, encoding="utf-8")
            (place / PICTURE).write_bytes(picture)
            nodule = "" if entry.point is None else entry.point.number
            table = result.slices.assign(series_uid=entry.series_uid, nodule=nodule)[list(SLICE_COLUMNS)]
            with (self.folder / SLICES).open("a", encoding="utf-8", newline="") as file:
                table.to_csv(file, header=False, index=False, lineterminator="\r\n")
        with whole_file(place / RECORD, place) as record:
            record.write(entry.model_dump_json(indent=2).encode())
        self.series[entry.key] = entry
        if time.monotonic() - self._written > PERIOD_S:
            self.write_tables(complete=False)

    def refuse(self, item: str, reason: str, remedy: str) -> None:
        """List what cannot be predicted."""
        self.refused.append(RefusedEntry(item=item, reason=reason, remedy=remedy))

    def write_tables(self, complete: bool) -> None:
        """Write predictions.csv, predictions.json and quarantine.csv."""
        series = sorted(self.series.values(), key=lambda one: (one.series_uid, one.point.number if one.point else 0))
        document = Document(complete=complete, models=self.models, series=series, refused=self.refused)
        with whole_file(self.folder / DOCUMENT, self.folder) as file:
            file.write(document.model_dump_json(indent=2, by_alias=True).encode())
        with whole_file(self.folder / PREDICTIONS, self.folder) as file:
            rows = [csv_row(entry) for entry in series]
            write_table(pd.DataFrame(rows) if rows else pd.DataFrame(columns=["series_uid"]), file)
        quarantine = pd.DataFrame([dict(one) for one in self.refused], columns=["item", "reason", "remedy"])
        with whole_file(self.folder / QUARANTINE, self.folder) as file:
            write_table(quarantine, file)
        self._written = time.monotonic()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder, which is created."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LungtlError(
            f"output={folder}: another command is writing to it; wait for it, or use another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def csv_row(entry: SeriesEntry) -> Mapping[str, object]:
    """A line of predictions.csv; of several models or networks, their values are joined by ;."""
    models, point = entry.models, entry.point
    points = list(dict.fromkeys(name for each in models for name in each.decisions))
    with_covariates = [each.with_covariates for each in models]
    return {
        "series_uid": entry.series_uid,
        "nodule": None if point is None else point.number,
        "path": entry.path,
        "probability": entry.probability,
        "calibrated": entry.calibrated,
        **(
            {"probability_with_covariates": _joined(with_covariates)}
            if any(p is not None for p in with_covariates)
            else {}
        ),
        "spread": entry.spread,
        "each": _joined([p for each in models for p in each.networks]) if entry.spread is not None else None,
        **{f"decision_{name}": _joined([_verdict(each.decisions.get(name)) for each in models]) for name in points},
        "warnings": ";".join(warning.code for warning in entry.warnings),
        "n_slices": entry.n_slices,
        "report": f"{entry.key}/{PAGE}",
        "model": ";".join(each.model for each in models),
        "lungtl": entry.lungtl,
        "date": entry.created,
    }


def _verdict(decision: Decision | None) -> str | None:
    return None if decision is None else "positive" if decision.positive else "negative"


def _joined(values: Sequence[object]) -> object:
    """A single value as it is; several as text, of which missing ones are empty."""
    return values[0] if len(values) == 1 else ";".join("" if value is None else str(value) for value in values)
