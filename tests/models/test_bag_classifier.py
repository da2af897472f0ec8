from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.attention import Attention
from lungtl.models.bag_classifier import CPU_CHUNK
from lungtl.models.freezing.base import set_train_mode
from tests.models.tiny import LUNG, WIDTH, noise_frames, tiny_classifier

BAGS = [noise_frames(3), noise_frames(1, seed=1), noise_frames(5, seed=2)]


def test_the_chunk_size_does_not_change_the_result() -> None:
    with torch.no_grad():
        whole = tiny_classifier(chunk=64)(BAGS)
        pieces = tiny_classifier(chunk=2)(BAGS)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_bags_result_does_not_depend_on_its_batch() -> None:
    classifier = tiny_classifier()
    with torch.no_grad():
        together = classifier(BAGS)
        for row, bag in enumerate(BAGS):
            alone = classifier([bag])
            torch.testing.assert_close(together.bag_logits[row], alone.bag_logits[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.weights[row, : len(bag)], alone.weights[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.slice_logits[row, : len(bag)], alone.slice_logits[0], atol=1e-5, rtol=0)
    assert together.bag_logits.std() > 1e-4


def test_the_forward_pass_is_the_same_with_and_without_gradients() -> None:
    classifier = tiny_classifier()
    learning = classifier(BAGS)
    with torch.no_grad():
        still = classifier(BAGS)
    for a, b in zip(learning, still, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert classifier.embed(BAGS[0]).requires_grad
    classifier.backbone.requires_grad_(False)
    assert not classifier.embed(BAGS[0]).requires_grad


def test_bags_of_different_sizes_share_a_batch() -> None:
    classifier = tiny_classifier()
    mixed = [noise_frames(3, size=32), noise_frames(2, size=48)]
    logits = classifier(mixed).bag_logits
    with torch.no_grad():
        alone = torch.cat([classifier([bag]).bag_logits for bag in mixed])
    torch.testing.assert_close(logits.detach(), alone, atol=1e-5, rtol=0)


def test_batch_norm_uses_the_whole_batch() -> None:
    classifier = tiny_classifier()
    set_train_mode(classifier.backbone)
    before = classifier.state_dict()["backbone.net.bn1.num_batches_tracked"].clone()
    slices = [noise_frames(1, seed=seed) for seed in range(4)]
    together = classifier(slices)
    assert classifier.state_dict()["backbone.net.bn1.num_batches_tracked"] == before + 1
    # what the network says of a slice then depends on the others; with statistics of its own it would not
    other = classifier([slices[0], *(noise_frames(1, seed=seed) for seed in range(9, 12))])
    assert not torch.allclose(together.bag_logits[0], other.bag_logits[0], atol=1e-4)


def test_three_neighbouring_slices_are_the_three_channels() -> None:
    classifier = tiny_classifier(aggregator=Attention(WIDTH, hidden=4))
    classifier.preprocessor = SlicePreprocessor(LUNG, True, 32, None, classifier.backbone.mean, classifier.backbone.std)
    frames = noise_frames(4).repeat(1, 3, 1, 1)
    with torch.no_grad():
        repeated = classifier.embed(frames)
        assert torch.equal(repeated, tiny_classifier().embed(noise_frames(4)))  # one slice three times
        frames[:, 0] = 0
        assert not np.allclose(classifier.embed(frames), repeated)


def test_features_of_all_blocks_are_embeddings() -> None:
    classifier = tiny_classifier(chunk=2)
    with torch.no_grad():
        rows = [classifier.embed(bag) for bag in BAGS]
        for a, b in zip(classifier.classify(rows), classifier(BAGS), strict=True):
            torch.testing.assert_close(a, b, atol=5e-6, rtol=0)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_features_of_a_cut_give_the_output_of_the_voxels(blocks: int, learning: bool) -> None:
    classifier = tiny_classifier(chunk=2)
    classifier.cut(blocks)
    with torch.no_grad():
        rows = [classifier.split.prefix(classifier.preprocessor(bag)) for bag in BAGS]
    with torch.set_grad_enabled(learning):
        for a, b in zip(classifier.classify(rows), classifier(BAGS), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_features_of_half_precision_are_computed_with_in_float32() -> None:
    classifier = tiny_classifier()
    with torch.no_grad():
        rows = [classifier.embed(bag) for bag in BAGS]
        halves = classifier.classify([r.half() for r in rows])
        assert halves.bag_logits.dtype == torch.float32
        torch.testing.assert_close(halves.bag_logits, classifier.classify(rows).bag_logits, atol=1e-2, rtol=0)


def test_the_cut_adds_nothing_to_the_state_dict() -> None:
    classifier = tiny_classifier()
    before = set(classifier.state_dict())
    classifier.cut(3)
    assert set(classifier.state_dict()) == before
    assert len(list(classifier.parameters())) == len(list(tiny_classifier().parameters()))


def test_a_cpu_takes_small_chunks() -> None:
    assert tiny_classifier(chunk=None).chunk == CPU_CHUNK
