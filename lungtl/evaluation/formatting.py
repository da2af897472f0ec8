"""Numbers as text: estimates, p-values, counts, and the tables that show them on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lungtl.evaluation.estimate import Estimate, mean_and_sd
from lungtl.evaluation.weighted import METRICS

Rows = list[tuple[str, ...]]
"""Text cells, the header first."""

INTERVALS = "95 % intervals: bootstrap over patients; DeLong's where named and for gains; exact for rates of 0 and 1"
"""A caption for tables of estimates."""

UNDEFINED = "undefined"

HEADLINES = {"auroc": "AUROC", "auprc": "AUPRC", "sensitivity": "sensitivity", "specificity": "specificity",
             "brier": "Brier score"}  # fmt: skip
"""The metrics of tables that compare runs -> their titles."""

CALIBRATION_METRICS = ("brier", "calibration_error")
"""What a calibration improves; rankings stay as they are, or nearly so."""


def format_number(value: float, signed: bool = False) -> str:
    """'0.846', or signed '+0.846'; never '-0.000'."""
    return f"{value:+z.3f}" if signed else f"{value:z.3f}"


def format_estimate(
    estimate: Estimate | Mapping[str, Any] | None, *, signed: bool = False, reasons: bool = False, separator: str = " "
) -> str:
    """Format a value with its spread, as far as known: '0.846 ± 0.022 [0.704, 0.958]', or 'undefined'.

    Args:
        estimate: or its JSON; "" for None.
        signed: whether to write a plus sign, as for differences.
        reasons: whether to add why the value or its interval is missing.
        separator: before the interval, such as a line break.
    """
    if estimate is None:
        return ""
    if isinstance(estimate, Mapping):
        whole = estimate["low"] is not None  # a gain may give a reason for having no p-value alone
        reason = None if whole else estimate["undefined"]
        estimate = Estimate(estimate["value"], estimate["low"], estimate["high"], reason)
    if estimate.value is None:
        return f"{UNDEFINED}: {estimate.undefined}" if reasons else UNDEFINED
    text = format_number(estimate.value, signed)
    if estimate.sd is not None:
        text += f" ± {estimate.sd:.3f}"
    if estimate.low is not None and estimate.high is not None:
        return f"{text}{separator}[{format_number(estimate.low, signed)}, {format_number(estimate.high, signed)}]"
    return f"{text} ({estimate.undefined})" if reasons else text


def format_mean_sd(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of what is defined: '0.873 ± 0.021'."""
    defined = [value for value in values if value is not None]
    if not defined:
        return UNDEFINED
    mean, sd = mean_and_sd(defined)
    return format_number(mean) + (f" ± {sd:.3f}" if sd is not None else "")


def format_p_value(p: float | None) -> str:
    """'0.042', '< 0.001', or '' for None."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_amount(value: float | None) -> str:
    """A count or a cost: '121,476', '12', '3.5', or '' for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def format_size(size: float) -> str:
    """A number of bytes: '2.4 MB', '1.3 GB'."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def plural(count: int, noun: str) -> str:
    """'1 run', '2 runs'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def headlines(document: Mapping[str, Any]) -> list[str]:
    """The results in lines of at most 80 characters.

    AUROC, the controls' AUROCs, sensitivity and specificity at the threshold with the highest Youden index on
    validation (otherwise at the document's threshold), and calibration. A control that ranks nothing, such as the
    prevalence, is omitted. Of a single case nothing can be estimated.

    Args:
        document: the content of metrics.json.
    """
    bag, chosen = document["bag"], document.get("chosen")
    cases = f"{plural(bag['n'], 'case')} of {plural(bag['n_patients'], 'patient')}, {bag['n_positive']} positive"
    lines = [f"{document['split']}: {cases}"]
    if omitted := document.get("patients_left_out"):
        lines.append(f"omitted: {plural(omitted, 'patient')} who trained the model or chose its epoch")
    if bag["n"] == 1:
        return lines
    rows = [("AUROC", _with_reason(bag["metrics"]["auroc"]))]
    if part := document.get("with_covariates"):
        text = f"{format_estimate(part['scores']['metrics']['auroc'])}{_gain(part['gain'], 'gain')}"
        rows.append((f"  with {', '.join(part['covariates'])}", text))
    for name, table in document["controls"].items():
        auroc = table["metrics"]["auroc"]
        if auroc["value"] != 0.5 or auroc["low"] != auroc["high"]:
            rows.append((f"  {name}", f"{format_estimate(auroc)}{_gain(document['gains'].get(name))}"))
    point = document["operating_points"].get("youden")
    rates = bag["metrics"] if point is None else point
    origin = f"at {bag['threshold']:.3g}" if point is None else f"at {point['threshold']:.3f}, chosen on validation"
    rows += [(name, f"{format_estimate(rates[name])}  {origin}") for name in ("sensitivity", "specificity")]
    kind = chosen["kind"] if chosen else "none"
    calibrated = document["calibrated"].get(kind, bag)["metrics"]
    how = kind if kind in document["calibrated"] else "not calibrated"
    error, brier = calibrated["calibration_error"], calibrated["brier"]["value"]
    rows.append(("calibration", f"error {format_estimate(error)}, Brier score {format_number(brier)} ({how})"))
    width = max(len(label) for label, _ in rows) + 2
    return lines + [f"{label:<{width}}{text}" for label, text in rows]


def _gain(gain: Mapping[str, Any] | None, of: str = "model") -> str:
    """By how much the model's AUROC exceeds a control's: '  model +0.034, p 0.481'."""
    if gain is None or gain["difference"] is None:
        return ""
    p_value = "" if gain["p_value"] is None else f", p {format_p_value(gain['p_value'])}"
    return f"  {of} {format_number(gain['difference'], signed=True)}{p_value}"


def rows_for_table(document: Mapping[str, Any]) -> Rows:
    """Format the metrics of a metrics.json, model and controls side by side.

    Returns:
        The header, then one row per metric with cells such as "0.873 [0.810, 0.920]", "0.873 (no interval: only one
        patient)" or "undefined: only one class: 0 of 12 positive". Below the AUROC also DeLong's interval and the
        model's gain over each control, and the calibrated model below what calibration improves.
    """
    columns = {"model": document["bag"], **document["controls"]}
    rows: Rows = [("metric", *columns)]
    for name in METRICS:
        rows.append((name, *(_with_reason(table["metrics"][name]) for table in columns.values())))
        if name == "auroc":
            rows.append(("auroc (DeLong)", *(_with_reason(table["auroc_delong"]) for table in columns.values())))
            rows += _gain_rows(document)
        if name in CALIBRATION_METRICS:
            blank = [""] * (len(columns) - 1)
            rows += [
                (f"{name}, {kind}", _with_reason(table["metrics"][name]), *blank)
                for kind, table in document["calibrated"].items()
            ]
    return rows


def rows_of_covariates(document: Mapping[str, Any]) -> Rows:
    """Format the prediction with covariates: a header, then one row per metric; no rows where there is none."""
    part = document.get("with_covariates")
    if part is None:
        return []
    gain = part["gain"]
    rows: Rows = [("metric", f"model with {', '.join(part['covariates'])}")]
    rows += [(name, _with_reason(part["scores"]["metrics"][name])) for name in METRICS]
    rows.insert(2, ("auroc, gain over the model alone", _with_reason({**gain, "value": gain["difference"]})))
    rows.insert(3, ("p-value of the gain", format_p_value(gain["p_value"])))
    return rows


def rows_of_points(document: Mapping[str, Any]) -> Rows:
    """Format the operating points: a header, then one row per point; no rows where none were chosen."""
    points = document["operating_points"]
    if not points:
        return []
    names = ("sensitivity", "specificity", "ppv", "npv")
    rows: Rows = [("chosen on validation for", "threshold", *names)]
    for name, point in points.items():
        cells = ["not reached", *[""] * len(names)]
        if point is not None:
            cells = [format_number(point["threshold"]), *(_with_reason(point[metric]) for metric in names)]
        rows.append((name, *cells))
    return rows


def rows_of_localisation(document: Mapping[str, Any]) -> Rows:
    """Format the localisation: a header, then one row per measure; no rows where weights were not compared."""
    localisation = document["localisation"]
    if localisation is None:
        return []
    columns = localisation["rules"] | {f"model minus {rule}": table for rule, table in localisation["gains"].items()}
    names = {"share": "weight on nodule slices", "average_precision": "average precision"}
    rows: Rows = [("slices by weight", *columns)]
    rows += [(title, *(_with_reason(table[name]) for table in columns.values())) for name, title in names.items()]
    return rows


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, its header first; columns are as wide as their cells, so that nothing is cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, its header first; none for no rows. A `|` in a cell is escaped."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [*lines[:1], "|" + " --- |" * len(rows[0]), *lines[1:]] if rows else []


def _gain_rows(document: Mapping[str, Any]) -> Rows:
    """By how much the model's AUROC exceeds that of each control, with its p-value."""
    if not document["gains"]:
        return []
    gains = [document["gains"][name] for name in document["controls"]]
    cells = [_with_reason({**gain, "value": gain["difference"]}) for gain in gains]
    return [
        ("auroc, model's gain", "", *cells),
        ("p-value of the gain, unadjusted", "", *(format_p_value(gain["p_value"]) for gain in gains)),
    ]


def _with_reason(estimate: Mapping[str, Any] | None) -> str:
    return format_estimate(estimate, reasons=True)
