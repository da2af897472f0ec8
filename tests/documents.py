"""Whether a metrics.json follows its schema."""

from __future__ import annotations

import json

from lungtl.evaluation.document import Document, Metrics


def check_document(document: Document) -> None:
    """Raise pydantic.ValidationError unless a document follows the schema."""
    Metrics.model_validate_json(json.dumps(document))
