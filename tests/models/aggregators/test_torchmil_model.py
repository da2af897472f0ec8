from __future__ import annotations

import sys

import pytest
import torch

from lungtl.models.aggregators.torchmil_model import torchmil_models
from lungtl.settings.errors import LungtlError
from tests.models.aggregators.cases import OF_TORCHMIL, bags, built, needs_torchmil


@pytest.mark.parametrize("name", sorted(OF_TORCHMIL))
def test_without_torchmil_the_error_names_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmil", None)
    monkeypatch.delitem(sys.modules, "torchmil.models", raising=False)
    with pytest.raises(LungtlError, match=r"torchmil.*pip install 'lungtl\[mil\]'"):
        built(name)


@needs_torchmil
def test_all_four_models_are_in_torchmil() -> None:
    assert {"CLAM_SB", "DSMIL", "TransMIL", "SmABMIL"} <= set(vars(torchmil_models()))


@needs_torchmil
@pytest.mark.parametrize("name", sorted(OF_TORCHMIL))
def test_mixed_precision_does_not_reach_the_model(name: str) -> None:
    aggregator = built(name)
    embeddings, slice_logits, mask = bags([5, 3])
    expected = aggregator(embeddings, slice_logits, mask)
    with torch.autocast("cpu", torch.bfloat16):
        actual = aggregator(embeddings, slice_logits, mask)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)
