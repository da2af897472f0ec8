"""When cached features are reused, and what gives others."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lungtl.data import windows
from lungtl.data.store.reader import Store
from lungtl.data.windows import SlicePreprocessor
from lungtl.models import bag_classifier
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.training.feature_cache import PROBE
from tests.models.tiny import tiny_backbone, tiny_classifier
from tests.stores import toy_store
from tests.training.test_feature_cache import LENGTHS, cache, direct, entries


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


@pytest.mark.parametrize("part", ["torch", "timm"])
def test_another_version_of_torch_or_timm_is_another_entry(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    cache(tiny_classifier(), store, tmp_path)
    monkeypatch.setattr(f"{part}.__version__", "another")
    cache(tiny_classifier(), store, tmp_path)
    assert len(entries(tmp_path)) == 2


def preprocessor_with(change: tuple[str, str]) -> Any:
    """`SlicePreprocessor` of a changed source file."""
    source = inspect.getsource(windows)
    assert change[0] in source
    module = ModuleType("changed_windows")
    exec(compile(source.replace(*change), "windows.py", "exec"), vars(module))
    return module.SlicePreprocessor(**tiny_classifier().preprocessor.describe())


def written_again(store: Store, folder: Path, classifier: BagClassifier, **options: Any) -> bool:
    """Whether an entry, the only one, is not reused."""
    (before,) = (file.stat().st_mtime_ns for file in entries(folder))
    features = cache(classifier, store, folder, **options)
    torch.testing.assert_close(features.rows("b03"), direct(classifier, store, "b03"), atol=1e-5, rtol=0)
    (after,) = (file.stat().st_mtime_ns for file in entries(folder))
    return before != after


def test_another_docstring_keeps_an_entry(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache(tiny_classifier(), store, tmp_path)
    classifier = tiny_classifier()
    docstring = 'class SlicePreprocessor(nn.Module):\n    """'
    classifier.preprocessor = preprocessor_with((docstring, f"{docstring}In other words: "))
    with caplog.at_level("INFO"):
        assert not written_again(store, tmp_path, classifier)
    assert "read from the cache" in caplog.text


def test_rounding_keeps_an_entry(store: Store, tmp_path: Path) -> None:
    """As between two kinds of CPU."""
    cache(tiny_classifier(), store, tmp_path)
    file = entries(tmp_path)[0].with_name(PROBE)
    probe = np.load(file)
    np.save(file, probe * np.float32(1 + 1e-6))
    assert not written_again(store, tmp_path, tiny_classifier())
    np.save(file, probe * np.float32(1 + 1e-3))
    assert written_again(store, tmp_path, tiny_classifier())


@pytest.mark.parametrize(
    "change",
    [("clamp_(0, 1)", "clamp_(0, 0.9)"), ("centre - width / 2", "centre - width / 3"), ("sub_(self.mean)", "mul_(1)")],
)
def test_another_computation_discards_an_entry(
    store: Store, tmp_path: Path, change: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of a module that the cache does not name, with the same config."""
    cache(tiny_classifier(), store, tmp_path)
    classifier = tiny_classifier()
    classifier.preprocessor = preprocessor_with(change)
    assert written_again(store, tmp_path, classifier)
    assert "computing them again" in caplog.text
    assert not written_again(store, tmp_path, classifier)


def test_another_pooling_discards_an_entry(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(tiny_classifier(), store, tmp_path)
    forward = TimmBackbone.forward
    monkeypatch.setattr(TimmBackbone, "forward", lambda self, images: forward(self, images).relu() * 0.99)
    assert written_again(store, tmp_path, tiny_classifier())


def test_other_weights_of_the_same_fingerprint_discard_an_entry(store: Store, tmp_path: Path) -> None:
    cache(tiny_classifier(0), store, tmp_path)
    assert written_again(store, tmp_path, tiny_classifier(1))


@pytest.mark.parametrize("part", ["dihedral", "read_frames"])
def test_another_view_or_reading_discards_an_entry(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    cache(tiny_classifier(), store, tmp_path, views=8)
    whole = getattr(bag_classifier, part)
    monkeypatch.setattr(bag_classifier, part, lambda *args: whole(*args).flip(-1))
    cache(tiny_classifier(), store, tmp_path, views=8)
    monkeypatch.undo()
    assert written_again(store, tmp_path, tiny_classifier(), views=8)


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
    before = cache(tiny_classifier(), store, tmp_path).rows("b01")
    after = cache(change(tiny_classifier()), store, tmp_path).rows("b01")
    assert len(entries(tmp_path)) == 2
    assert not torch.allclose(before, after, atol=1e-3)


def test_other_weights_or_another_store_are_another_entry(store: Store, tmp_path: Path) -> None:
    a, b = tiny_backbone(0).fingerprint(), tiny_backbone(1).fingerprint()
    cache(tiny_classifier(0), store, tmp_path, a)
    other = cache(tiny_classifier(1), store, tmp_path, b)
    assert len(entries(tmp_path)) == 2
    torch.testing.assert_close(other.rows("b01"), direct(tiny_classifier(1), store, "b01"), atol=1e-5, rtol=0)
    cache(tiny_classifier(0), toy_store(tmp_path, LENGTHS, seed=1), tmp_path, a)
    assert len(entries(tmp_path)) == 3


def test_another_cut_view_or_precision_is_another_entry(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier()
    kept: list[tuple[int, dict[str, Any]]] = [
        (5, {}), (4, {}), (3, {}), (3, {"views": 8}), (3, {"precision": "float16"}),
    ]  # fmt: skip
    for count, (blocks, options) in enumerate(kept, start=1):
        classifier.cut(blocks)
        cache(classifier, store, tmp_path, **options)
        assert len(entries(tmp_path)) == count


def test_head_aggregator_and_chunk_share_an_entry(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier()
    cache(classifier, store, tmp_path)
    torch.nn.init.normal_(classifier.slice_head.weight)
    classifier._chunk = 3
    cache(classifier, store, tmp_path)
    assert len(entries(tmp_path)) == 1
