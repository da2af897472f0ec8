"""What a reader of the report needs first: what was compared on which data, and by how much the best setting leads."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.formatting import format_estimate, format_p_value
from lungtl.runs.folder import METRICS
from lungtl.settings.keys import meaning, override_key
from lungtl.sweeps.parent import MULTIRUN
from lungtl.sweeps.report.comparisons import Comparison
from lungtl.sweeps.report.remarks import COMMIT_LENGTH, join_items
from lungtl.sweeps.report.sweep import Sweep


def facts(sweep: Sweep) -> list[tuple[str, str]]:
    """Title and text: the data, what was varied, what was fixed, the command, the code and the date."""
    runs = sweep.runs
    shared = set(runs[0].choices.items()).intersection(*(run.choices.items() for run in runs))
    fixed = [f"{group}={option}" for group, option in runs[0].choices.items() if (group, option) in shared]
    stores = dict.fromkeys(str(run.document.get("run", {}).get("store", "")) for run in runs)
    varied = [f"{name}: {', '.join(dict.fromkeys(levels))}" for name, levels in sweep.factors.items()]
    found = [
        ("data", join_items([store for store in stores if store])),
        ("varied", "; ".join(varied) or "the seed alone"),
        ("fixed", " ".join(fixed)),
        ("command", command(runs[0].folder.parent)),
        ("code", code([run.environment or {} for run in runs])),
        ("date", date([run.folder / METRICS for run in runs])),
    ]
    return [(title, text) for title, text in found if text]


def command(folder: Path, name: Literal["train -m", "crossval"] = "train -m") -> str:
    """The command of a sweep, without this machine's paths; empty where it is unknown."""
    if not (folder / MULTIRUN).is_file():
        return ""
    lines = [str(line) for line in OmegaConf.load(folder / MULTIRUN).hydra.overrides.task]
    kept = [line for line in lines if meaning(override_key(line)).in_name]
    if name == "crossval":
        kept = [line for line in kept if not meaning(override_key(line)).set_by_crossval]
    parts = (line.partition("=") for line in kept)
    shown = (f"{key}={Path(value).name if value.startswith('/') else value}" for key, _, value in parts)
    return shlex.join(["lungtl", *name.split(), *shown])


def code(environments: list[Any]) -> str:
    """Version and commit of lungtl, of all runs; empty where they are unknown."""
    texts = []
    for one in environments:
        commit = f", commit {one['commit'][:COMMIT_LENGTH]}" if one.get("commit") else ""
        changed = " with uncommitted changes" if one.get("changed") else ""
        texts.append(f"lungtl {one['lungtl']}{commit}{changed}" if "lungtl" in one else "")
    return join_items([text for text in dict.fromkeys(texts) if text])


def margins(sweep: Sweep) -> list[str]:
    """By how much the best setting's test AUROC exceeds that of the next one on validation and of each control."""
    best = sweep.tested.best
    if best is None:
        return []
    lines = []
    second = sweep.tested.settings[1].label if len(sweep.tested.settings) > 1 else None
    for one in sweep.comparisons:
        if one.kind == "best" and one.setting == second:
            lines.append(f"Difference to {second}, next on validation: {_difference(one, swap=True)}.")
        if one.kind == "control" and one.setting == best.label:
            lines.append(f"Difference to the control {one.against}: {_difference(one)}.")
    return lines


def _difference(one: Comparison, swap: bool = False) -> str:
    """'+0.034 [-0.010, +0.080], adjusted p 0.481'; `swap` where the best is what is compared with."""
    gain = one.auroc.estimate
    if gain.value is None:
        return f"not compared ({gain.undefined})"
    if swap:
        low, high = (None if end is None else -end for end in (gain.high, gain.low))
        gain = Estimate(-gain.value, low, high, gain.undefined)
    adjusted = "" if one.adjusted is None else f", adjusted p {format_p_value(one.adjusted)}"
    return f"{format_estimate(gain, signed=True)}{adjusted}"


def date(files: list[Path]) -> str:
    """The day on which the newest of the files was written."""
    return f"{datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC):%Y-%m-%d}"
