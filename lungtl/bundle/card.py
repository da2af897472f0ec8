"""The model card: `card.md` for readers, `card.json` for programs."""

from __future__ import annotations

from collections.abc import Mapping

from lungtl.evaluation.formatting import INTERVALS, Rows, markdown_table


def model_card(title: str, settings: Mapping[str, str], *tables: Rows) -> str:
    """The bundle's README: what the model is, what it is for, how it scored.

    Args:
        title: the run's name.
        settings: dataset, backbone, freezing, aggregator, fingerprints.
        tables: of the metrics, header first; empty ones are omitted.
    """
    lines = [
        f"# {title}",
        "",
        "A chest CT malignancy model trained with lungtl. **Research software: not a medical device**; not for",
        "diagnosis or any decision about a patient. Trained and scored on the data named below alone.",
        "",
        *(f"- {key}: {value}" for key, value in settings.items()),
        "",
        "Test metrics next to those of trivial predictors on the same split.",
        f"{INTERVALS}.",
        "",
        *(line for rows in tables if rows for line in [*markdown_table(rows), ""]),
        "Calibration and thresholds were chosen on the validation split (`calibration.json`).",
        "",
        "Load it: `import lungtl; model = lungtl.load(FOLDER)`; then `model.predict(volume_hu, spacing_mm=...)`.",
        "",
    ]
    return "\n".join(lines)
