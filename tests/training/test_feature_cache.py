from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lungtl.data.bags import read_frames
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.store.reader import Store
from lungtl.training.feature_cache import CachedFeatures, cached_features, evaluating
from tests.models.tiny import LUNG, tiny_backbone, tiny_classifier
from tests.stores import toy_store

CPU = torch.device("cpu")
LENGTHS = (1, 5, 3, 9, 2, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def cache(classifier: BagClassifier, store: Store, folder: Path, weights: str = "w") -> CachedFeatures:
    return cached_features(classifier, store, folder, CPU, weights)


def entries(folder: Path) -> list[Path]:
    files = (folder / "cache" / "features").glob("*/features.npy")
    return sorted(file for file in files if file.parent.suffix != ".partial")


def direct(classifier: BagClassifier, store: Store, bag_id: str) -> torch.Tensor:
    voxels = store.voxels(bag_id)
    with torch.no_grad():
        return classifier.embed(read_frames(voxels, np.arange(len(voxels)), classifier.preprocessor.neighbours))


@pytest.mark.parametrize("chunk", [1, 2, 4, 7, 64])
def test_cached_embeddings_are_those_of_the_backbone(store: Store, tmp_path: Path, chunk: int) -> None:
    classifier = tiny_classifier(chunk=chunk)
    features = cache(classifier, store, tmp_path)
    assert list(features) == list(store.bags["bag_id"])
    assert [len(features[bag_id]) for bag_id in features] == list(LENGTHS)
    for bag_id in features:
        torch.testing.assert_close(torch.tensor(features[bag_id]), direct(classifier, store, bag_id), atol=1e-5, rtol=0)
    assert len({features[bag_id].tobytes() for bag_id in features}) == len(LENGTHS)


def test_cached_embeddings_of_neighbouring_slices(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier(chunk=4)  # smaller than a bag: neighbours lie in another chunk
    backbone = classifier.backbone
    classifier.preprocessor = SlicePreprocessor(LUNG, True, 32, None, backbone.mean, backbone.std)
    features = cache(classifier, store, tmp_path)
    for bag_id in features:
        torch.testing.assert_close(torch.tensor(features[bag_id]), direct(classifier, store, bag_id), atol=1e-5, rtol=0)


def test_the_backbone_runs_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache(tiny_classifier(), store, tmp_path)
    expected = {bag_id: np.array(first[bag_id]) for bag_id in first}
    classifier = tiny_classifier()
    monkeypatch.setattr(TimmBackbone, "forward", lambda *_: pytest.fail("the backbone ran again"))
    again = cache(classifier, store, tmp_path)
    assert all(np.array_equal(again[bag_id], expected[bag_id]) for bag_id in expected)
    assert len(entries(tmp_path)) == 1


def preprocessed(classifier: BagClassifier, **changes: object) -> BagClassifier:
    classifier.preprocessor = SlicePreprocessor(**(classifier.preprocessor.describe() | changes))
    return classifier


@pytest.mark.parametrize(
    "change",
    [
        lambda c: preprocessed(c, windows=[[40, 400]]),
        lambda c: preprocessed(c, size=64),
        lambda c: preprocessed(c, crop=16),
        lambda c: preprocessed(c, neighbours=True),
        lambda c: preprocessed(c, mean=[0.4, 0.5, 0.5]),
    ],
)
def test_other_preprocessing_is_another_entry(
    store: Store, tmp_path: Path, change: Callable[[BagClassifier], BagClassifier]
) -> None:
    before = np.array(cache(tiny_classifier(), store, tmp_path)["b01"])
    after = cache(change(tiny_classifier()), store, tmp_path)["b01"]
    assert len(entries(tmp_path)) == 2
    assert not np.allclose(before, after, atol=1e-3)


def test_other_weights_or_another_store_are_another_entry(store: Store, tmp_path: Path) -> None:
    a, b = tiny_backbone(0).fingerprint(), tiny_backbone(1).fingerprint()
    cache(tiny_classifier(0), store, tmp_path, a)
    other = cache(tiny_classifier(1), store, tmp_path, b)
    assert len(entries(tmp_path)) == 2
    torch.testing.assert_close(torch.tensor(other["b01"]), direct(tiny_classifier(1), store, "b01"), atol=1e-5, rtol=0)
    cache(tiny_classifier(0), toy_store(tmp_path, LENGTHS, seed=1), tmp_path, a)
    assert len(entries(tmp_path)) == 3


def test_head_aggregator_and_chunk_share_an_entry(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier()
    cache(classifier, store, tmp_path)
    torch.nn.init.normal_(classifier.slice_head.weight)
    classifier._chunk = 3
    cache(classifier, store, tmp_path)
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("mode", [True, False])
def test_the_network_stays_as_it_was(store: Store, tmp_path: Path, mode: bool) -> None:
    classifier = tiny_classifier().train(mode)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    features = cache(classifier, store, tmp_path)
    assert classifier.training == mode
    after = classifier.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    # and evaluation mode is what was computed in
    torch.testing.assert_close(
        torch.tensor(features["b03"]), direct(tiny_classifier(), store, "b03"), atol=1e-5, rtol=0
    )


def test_classifying_from_the_cache_is_classifying_voxels(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier()
    features = cache(classifier, store, tmp_path)
    embeddings = torch.tensor(features["b03"])[None]
    with torch.no_grad():
        cached = classifier.classify(embeddings, torch.ones(1, 9, dtype=torch.bool))
        fresh = classifier([read_frames(store.voxels("b03"), np.arange(9), False)])
    for a, b in zip(cached, fresh, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_what_a_killed_run_left_behind_is_harmless(store: Store, tmp_path: Path) -> None:
    cache(tiny_classifier(), store, tmp_path / "clean")
    (entry,) = entries(tmp_path / "clean")
    partial = tmp_path / "cache" / "features" / f"{entry.parent.name}.partial"
    partial.mkdir(parents=True)
    (partial / "features.npy").write_bytes(b"half of it")
    cache(tiny_classifier(), store, tmp_path)
    assert entries(tmp_path)[0].read_bytes() == entry.read_bytes()
    assert not partial.exists()


def test_an_entry_without_its_features_is_computed_again(store: Store, tmp_path: Path) -> None:
    cache(tiny_classifier(), store, tmp_path)
    entries(tmp_path)[0].unlink()  # someone made room
    cache(tiny_classifier(), store, tmp_path)
    assert len(entries(tmp_path)) == 1


def test_a_failure_leaves_no_entry(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(TimmBackbone, "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cache(tiny_classifier(), store, tmp_path)
    assert entries(tmp_path) == []
    cache(tiny_classifier(), store, tmp_path)
    assert len(entries(tmp_path)) == 1


def test_the_address_stands_beside_the_features(store: Store, tmp_path: Path) -> None:
    cache(tiny_classifier(), store, tmp_path, "abc")
    address = json.loads((entries(tmp_path)[0].parent / "address.json").read_text())
    assert address["store"] == store.fingerprint
    assert address["weights"] == "abc"
    assert address["preprocessing"] == tiny_classifier().preprocessor.describe()


def test_evaluating_gives_the_mode_back_when_something_fails() -> None:
    module = torch.nn.Dropout().train()
    context = evaluating(module)
    context.__enter__()
    assert not module.training
    assert not context.__exit__(ZeroDivisionError, ZeroDivisionError(), None)  # what failed goes on
    assert module.training
