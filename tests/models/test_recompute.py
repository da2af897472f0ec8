"""Training in chunks of bounded memory gives the gradients of training all at once."""

from __future__ import annotations

import gc
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from lungtl.models import bag_classifier
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy, set_train_mode
from lungtl.models.freezing.bitfit import BitFit
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.lora import Lora
from lungtl.models.recompute import in_chunks, mixes_slices
from tests.models.tiny import noise_frames, tiny_classifier

BAGS = [noise_frames(3), noise_frames(1, seed=1), noise_frames(5, seed=2)]


def counted(network: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    calls: list[int] = []

    def call(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        output: Tensor = network(rows)
        return output

    return call, calls


def test_what_fits_into_the_budget_is_kept_and_the_rest_computed_again() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    rows = torch.randn(7, 4)
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    # a row saves its input and the GELU's input and output, 3 x 4 float32 = 48 bytes; the first call measures that
    for budget, forward, again in (
        (0, [2, 2, 2, 1], [2, 2, 2, 1]),
        (47, [2, 2, 2, 1], [2, 2, 2, 1]),
        (3 * 48, [2, 2, 2, 1], [2, 2]),
        (6 * 48 + 10, [1, 2, 2, 2], [1]),
        (10**6, [2, 2, 2, 1], []),
    ):
        call, calls = counted(network)
        output = in_chunks(call, rows, 2, budget, weights)
        torch.testing.assert_close(output, network(rows))
        assert calls == [1, *forward]
        output.square().sum().backward()
        assert calls[5:] == again[::-1], budget


def gradients(network: nn.Module, output: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    output.square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_dropout_is_the_same_in_both_passes() -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.GELU(), nn.Linear(16, 3), nn.Dropout(0.5))
    rows = torch.randn(9, 4)
    found = []
    for budget in (0, 10**9):
        torch.manual_seed(3)
        found.append(gradients(network, in_chunks(network, rows, 2, budget, set())))
    recomputed, kept = found
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient)
    torch.manual_seed(4)
    other = gradients(network, in_chunks(network, rows, 2, 0, set()))
    assert not torch.allclose(other["0.weight"], kept["0.weight"])


def test_measuring_draws_no_random_numbers() -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5))
    rows, states = torch.randn(9, 4), []
    for _ in range(2):
        torch.manual_seed(0)
        in_chunks(network, rows, 2, 10**9, set())
        states.append(torch.get_rng_state())
    torch.manual_seed(0)
    for chunk in rows.split(2):
        network(chunk)
    assert all(torch.equal(state, torch.get_rng_state()) for state in states)


def trained(classifier: BagClassifier, strategy: FreezingStrategy, chunk: int) -> tuple[dict[str, Tensor], Tensor]:
    classifier._chunk = chunk
    set_train_mode(classifier.backbone)
    with mock.patch.object(bag_classifier, "activation_budget", return_value=0):
        logits = classifier(BAGS).bag_logits
        return gradients(classifier, logits), logits


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("test_resnet", Lora()), ("test_resnet", BitFit()), ("test_vit", Full()), ("test_vit", Lora())],
    ids=["resnet lora", "resnet bitfit", "vit full", "vit lora"],
)
def test_gradients_are_those_of_all_slices_at_once(name: str, strategy: FreezingStrategy) -> None:
    classifier = tiny_classifier(name=name)
    strategy.adapt(classifier.backbone)
    for key, parameter in classifier.backbone.named_parameters():
        if "lora_B" in key:  # zero at first, and with it the gradient of A
            nn.init.normal_(parameter, std=0.1)
    strategy.apply(classifier.backbone, epoch=0)
    assert not mixes_slices(classifier.backbone)
    whole, logits = trained(classifier, strategy, chunk=64)
    pieces, same_logits = trained(classifier, strategy, chunk=2)
    torch.testing.assert_close(same_logits, logits, atol=1e-5, rtol=1e-4)
    assert whole.keys() == pieces.keys()
    assert sum(key.startswith("backbone.") for key in whole) > 0
    for key, gradient in whole.items():
        scale = max(1e-3, float(gradient.abs().max()))
        torch.testing.assert_close(pieces[key] / scale, gradient / scale, atol=1e-4, rtol=0, msg=key)


def test_stochastic_depth_is_respected() -> None:
    classifier = tiny_classifier(name="test_vit")
    for block in classifier.backbone.net.blocks:  # type: ignore[union-attr]
        block.drop_path1 = block.drop_path2 = nn.Dropout(0.5)
    found = []
    for budget in (0, 10**9):
        set_train_mode(classifier.backbone)
        classifier._chunk = 2
        torch.manual_seed(0)
        with mock.patch.object(bag_classifier, "activation_budget", return_value=budget):
            found.append(gradients(classifier, classifier(BAGS).bag_logits))
    for key, gradient in found[1].items():
        torch.testing.assert_close(found[0][key], gradient, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("blocks", [1, 3])
def test_behind_a_cut_likewise(blocks: int) -> None:
    classifier = tiny_classifier(name="test_vit")
    classifier.cut(blocks)
    with torch.no_grad():
        rows = [classifier.split.prefix(classifier.preprocessor(bag)) for bag in BAGS]
    found = []
    for chunk in (64, 2):
        classifier._chunk = chunk
        with mock.patch.object(bag_classifier, "activation_budget", return_value=0):
            found.append(gradients(classifier, classifier.classify(rows).bag_logits))
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, atol=1e-5, rtol=1e-3, msg=key)


def test_batch_norms_that_train_see_all_slices_at_once() -> None:
    classifier = tiny_classifier(chunk=2)
    assert not mixes_slices(classifier.backbone)  # in evaluation mode
    set_train_mode(classifier.backbone)
    assert mixes_slices(classifier.backbone)
    before = classifier.state_dict()["backbone.net.bn1.num_batches_tracked"].clone()
    classifier(BAGS).bag_logits.sum().backward()
    assert classifier.state_dict()["backbone.net.bn1.num_batches_tracked"] == before + 1


def test_nothing_stays_in_memory_after_a_step() -> None:
    # a ReLU saves its output, which leads back to it
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def tensors_after_a_step() -> int:
        in_chunks(network, torch.randn(7, 4), 2, 0, set()).sum().backward()
        gc.collect()
        return sum(isinstance(each, Tensor) for each in gc.get_objects())

    assert tensors_after_a_step() == tensors_after_a_step()
