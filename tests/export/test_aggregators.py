"""Every aggregator that can be exported computes the same in onnxruntime; all are traced and converted in one go."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungtl.export.formats import UNEXPORTABLE, trace
from lungtl.export.network import ExportedNetwork, aggregate
from lungtl.models.aggregators.base import Aggregator
from lungtl.settings.errors import LungtlError
from tests.models.aggregators.cases import DIM, KINDS, OF_TORCHMIL, built, kinds, needs_torchmil
from tests.models.tiny import WIDTH, tiny_classifier

pytest.importorskip("onnxruntime")
EXPORTED = [name for name in KINDS if type(built(name)) not in UNEXPORTABLE]


class All(nn.Module):
    """Embeddings [1, S, DIM] and slice logits [1, S, 3] -> logit and weights of every aggregator."""

    def __init__(self, aggregators: dict[str, Aggregator]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name.replace("-", "_"): each for name, each in aggregators.items()})

    def forward(self, h: Tensor, slice_logits: Tensor) -> list[Tensor]:
        parts: list[Aggregator] = list(self.parts.values())  # type: ignore[arg-type]
        return [output for part in parts for output in aggregate(part, h, slice_logits)]


Floats = NDArray[np.float32]
Session = Callable[[Floats, Floats], dict[str, tuple[Floats, ...]]]


@pytest.fixture(scope="module")
def session() -> Session:
    import onnxruntime

    names = [name for name in EXPORTED if name not in OF_TORCHMIL or not needs_torchmil.args[0]]
    module = All({name: built(name) for name in names})
    slices = torch.export.Dim("slices", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 5, DIM), torch.zeros(1, 5, 3))
        program = torch.export.export(module, example, dynamic_shapes=({1: slices}, {1: slices}), strict=False)
        converted = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
    assert converted is not None
    run = onnxruntime.InferenceSession(converted.model_proto.SerializeToString())
    inputs = [each.name for each in run.get_inputs()]

    def of_each(
        h: NDArray[np.float32], slice_logits: NDArray[np.float32]
    ) -> dict[str, tuple[NDArray[np.float32], ...]]:
        outputs = run.run(None, dict(zip(inputs, (h, slice_logits), strict=True)))
        return {name: (outputs[2 * i], outputs[2 * i + 1]) for i, name in enumerate(names)}

    return of_each


@kinds(lambda kind: type(kind.build()) not in UNEXPORTABLE)
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_onnxruntime_computes_the_same(session: Session, name: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    h, slice_logits = torch.randn(1, count, DIM, generator=generator), torch.randn(1, count, 3, generator=generator)
    with torch.no_grad():  # with a mask, as everywhere else
        expected = built(name)(h, slice_logits, torch.ones(1, count, dtype=torch.bool))
    for found, value in zip(session(h.numpy(), slice_logits.numpy())[name], expected, strict=True):
        np.testing.assert_allclose(found, value.numpy(), atol=1e-5)


@kinds(lambda kind: type(kind.build()) in UNEXPORTABLE)
def test_the_others_say_why_in_one_line(name: str) -> None:
    torch.manual_seed(0)
    kind = type(built(name))
    network = ExportedNetwork([tiny_classifier(aggregator=kind(WIDTH))])
    with pytest.raises(LungtlError, match=f"aggregator={name} cannot be exported: ") as refused:
        trace(network)
    assert "\n" not in str(refused.value)


def test_an_aggregator_of_ones_own_that_cannot_be_followed_is_refused() -> None:
    class Odd(Aggregator):
        def forward(
            self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            if float(embeddings.sum()) > 0:  # depends on the values
                return embeddings.sum(dim=(1, 2)), mask.float()
            return -embeddings.sum(dim=(1, 2)), mask.float()

    with pytest.raises(LungtlError, match="test_resnet, Odd cannot be exported") as refused:
        trace(ExportedNetwork([tiny_classifier(aggregator=Odd())]))
    assert "\n" not in str(refused.value)
