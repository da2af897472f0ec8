"""Ensembles: several runs of one dataset as a single model, whose probability is the mean of its members'.

The mean of probabilities is the usual combination (Lakshminarayanan et al., NeurIPS 2017). An ensemble's bundle has a
config.json, one calibration.json and `members/0`, `members/1`, ..., each a bundle of its own; next to the bundle is a
split.csv in which a patient who trained any member counts as trained on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.bundle import (
    CARD,
    CARD_DATA,
    CONFIG,
    FILES,
    FORMAT,
    card_document,
    check_format,
    merge_ranges,
    model_card,
    read_ranges,
    write_ranges,
)
from lungtl.data.splits import EXTRA, SPLITS, UNUSED, save_split
from lungtl.data.store.files import check_checksums, write_checksums
from lungtl.data.tables import read_table
from lungtl.evaluation.chosen import Chosen, choose, read_chosen, write_chosen
from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.formatting import Rows, format_estimate
from lungtl.runs.folder import (
    BUNDLE,
    MEMBERS,
    METRICS,
    PREDICTIONS,
    SPLIT,
    VALIDATION,
    how_to_resume,
    read_json,
    read_record,
)
from lungtl.runs.record import read_own_split, without_local
from lungtl.settings.errors import LungtlError
from lungtl.settings.version import VERSION
from lungtl.sources.base import UNKNOWN, sha256

SAME = ("store_fingerprint", "value_range", "crop")
"""What the records of all members must agree on."""
SHARED = (*SAME, "bag", "field_mm", "depth_mm", "store", "choices")
UNFINISHED = f".{BUNDLE}.unfinished"


def write_ensemble(runs: Sequence[Path], folder: Path, name: str, mlflow_run_id: str | None = None) -> None:
    """Write the ensemble of finished runs: `bundle/` and split.csv, replacing earlier ones.

    Calibration and thresholds are chosen on the members' validation predictions: of each bag the mean over the members
    that it validated. In a cross-validation that is one member for each bag, which never trained on it.

    Args:
        runs: folders of at least two finished runs on one dataset.
        folder: gets the files.
        name: of the ensemble.
        mlflow_run_id: the run in which it can be registered; None without tracking.

    Raises:
        LungtlError: the runs differ in their data, or one has no bundle.
    """
    records = [read_record(run) for run in runs]
    _check_members(runs, records)
    split = merge_splits([read_own_split(run) for run in runs])
    folder.mkdir(parents=True, exist_ok=True)
    save_split(split, folder / SPLIT)
    chosen = _choose(runs)
    configs = [json.loads((run / BUNDLE / CONFIG).read_text(encoding="utf-8")) for run in runs]
    provenance = {key: records[0].get(key) for key in SHARED} | {
        "name": name, "mlflow_run_id": mlflow_run_id, "members": [without_local(record) for record in records]
    }  # fmt: skip
    config = {
        "format": FORMAT,
        "lungtl": VERSION,
        MEMBERS: len(runs),
        "slices_trained": all(each.get("slices_trained", True) for each in configs),
        "controls": fit_controls(split[split["split"] == "train"]).to_dict(),
        "provenance": provenance,
        "split_sha256": sha256(folder / SPLIT),
    }
    bundle, unfinished = folder / BUNDLE, folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of an interrupted attempt
    for number, run in enumerate(runs):
        shutil.copytree(run / BUNDLE, unfinished / MEMBERS / str(number))
    (unfinished / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    documents = [read_json(run / METRICS) for run in runs]
    tables = {
        side: mean_over_members([read_table(run / file) for run in runs])
        for side, file in (("val", VALIDATION), ("test", PREDICTIONS))
        if all((run / file).is_file() for run in runs)
    }
    if (ranges := merge_ranges([read_ranges(run / BUNDLE) for run in runs], tables)) is not None:
        write_ranges(ranges, unfinished)
    phantom = ranges is not None and ranges.phantom
    scores: Rows = [("member", "run", "test AUROC of the member alone")]
    for number, (run, document) in enumerate(zip(runs, documents, strict=True)):
        scores.append((str(number), run.name, format_estimate(document["bag"]["metrics"]["auroc"])))
    described = {"dataset": provenance["store"], "store_fingerprint": provenance["store_fingerprint"]}
    text = model_card(name, described, scores, phantom=phantom, members=len(runs))
    (unfinished / CARD).write_text(text, encoding="utf-8")
    cards = [read_json(run / BUNDLE / CARD_DATA) for run in runs if (run / BUNDLE / CARD_DATA).is_file()]
    card = card_document(
        name=name,
        unit=provenance["bag"] or "scan",
        value_range=provenance["value_range"],
        labels=cards[0]["label_rule"] if cards else "as provided with the dataset",
        provenance=provenance,
        documents=documents,
        preprocessing=[each["preprocessing"] for each in configs],
        weights_licence=cards[0]["licences"]["starting_weights"] if cards else "",
        ranges=ranges,
    )
    (unfinished / CARD_DATA).write_text(json.dumps(card, indent=2, allow_nan=False), encoding="utf-8")
    if chosen is not None:
        write_chosen(chosen, unfinished)
    write_checksums(unfinished, FILES)
    shutil.rmtree(bundle, ignore_errors=True)
    unfinished.rename(bundle)


def read_ensemble(bundle: Path) -> tuple[list[Path], dict[str, Any]] | None:
    """The bundles of an ensemble's members and the ensemble's config; None for the bundle of a single model.

    Raises:
        LungtlError: the ensemble is damaged.
    """
    if not (bundle / MEMBERS).is_dir():
        return None
    check_checksums(bundle)
    try:
        config: dict[str, Any] = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
        members = [bundle / MEMBERS / str(number) for number in range(config[MEMBERS])]
        check_format(bundle, config)
        if missing := {"slices_trained", "controls", "provenance"} - config.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise LungtlError(f"{bundle} is a damaged ensemble ({error}); fetch it again") from error
    return members, config


def merge_splits(splits: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One split for all members: train if a patient trained any of them, else val if one chose its epoch on them.

    Args:
        splits: bag_id, patient_id, diameter_mm, label, split of each member. Bags without a label stay extra.
    """
    table = pd.concat(splits)
    roles = pd.Categorical(table["split"].replace({EXTRA: "train", UNUSED: "test"}), SPLITS, ordered=True)
    of_patient = table.assign(role=roles).groupby("patient_id")["role"].min()
    merged = table.drop_duplicates("bag_id").sort_values("bag_id", ignore_index=True)
    role = merged["patient_id"].map(of_patient).astype(str)
    return merged.assign(split=role.where(merged["label"] != UNKNOWN, EXTRA))


def _check_members(runs: Sequence[Path], records: Sequence[dict[str, Any]]) -> None:
    if len(runs) < 2:
        raise LungtlError(f"an ensemble of {len(runs)} runs: expected at least 2")
    for run, record in zip(runs, records, strict=True):
        if not (run / BUNDLE / CONFIG).is_file():
            raise LungtlError(f"{run} has no bundle because it did not finish; resume it: {how_to_resume(run)}")
        for key in SAME:
            if record[key] != records[0][key]:
                raise LungtlError(
                    f"{run} has {key} {record[key]}, {runs[0]} has {records[0][key]}: the members of an ensemble must "
                    "be trained on the same prepared dataset"
                )


def _choose(runs: Sequence[Path]) -> Chosen | None:
    """Calibration and thresholds from the members' validation predictions; None if a run has none."""
    earlier = read_chosen(runs[0])
    if earlier is None or not all((run / VALIDATION).is_file() for run in runs):
        return None
    tables = [read_table(run / VALIDATION) for run in runs]
    return choose(mean_over_members(tables), earlier.kind)


def mean_over_members(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean probability of each bag over the tables that have it: bag_id, patient_id, label, probability."""
    keys = ["bag_id", "patient_id", "label"]
    return pd.concat(tables).groupby(keys, sort=True)["probability"].mean().reset_index()
