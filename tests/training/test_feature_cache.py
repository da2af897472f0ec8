from __future__ import annotations

import errno
import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungtl.data.bags import dihedral, read_frames
from lungtl.data.cache_folder import CacheFolder, Layout
from lungtl.data.store.reader import Store
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.module_state import evaluation_mode
from lungtl.settings.errors import LungtlError
from lungtl.training.feature_cache import PROBE_SLICES, CachedFeatures, cached_features
from tests.models.tiny import LUNG, tiny_classifier
from tests.stores import toy_store

CPU = torch.device("cpu")
LENGTHS = (1, 5, 3, 9, 2, 1)
LAYOUT = Layout(sum(LENGTHS), 96, "float32")  # of test_resnet's embeddings


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def cache(classifier: BagClassifier, store: Store, folder: Path, weights: str = "w", **options: Any) -> CachedFeatures:
    features = cached_features(classifier, store, folder, CPU, weights, **options)
    assert features is not None
    return features


def entries(folder: Path) -> list[Path]:
    return sorted(entry.folder / "features.npy" for entry in CacheFolder(folder).entries())


def direct(classifier: BagClassifier, store: Store, bag_id: str, view: int = 0) -> torch.Tensor:
    """The prefix of a bag's slices, turned, without the cache."""
    voxels = store.voxels(bag_id)
    frames = read_frames(voxels, np.arange(len(voxels)), classifier.preprocessor.neighbours)
    with torch.no_grad(), evaluation_mode(classifier):
        return classifier.split.prefix(classifier.preprocessor(dihedral(frames, view)))


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_cached_features_are_those_of_the_backbone(store: Store, tmp_path: Path, chunk: int) -> None:
    classifier = tiny_classifier(chunk=chunk)
    features = cache(classifier, store, tmp_path)
    for bag_id, count in zip(store.bags["bag_id"], LENGTHS, strict=True):
        rows = features.rows(bag_id)
        assert rows.shape == (count, classifier.backbone.dim)
        torch.testing.assert_close(rows, direct(classifier, store, bag_id), atol=1e-5, rtol=0)
    assert len({features.rows(bag_id).numpy().tobytes() for bag_id in store.bags["bag_id"]}) == len(LENGTHS)


def test_cached_features_of_neighbouring_slices(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier(chunk=4)  # smaller than a bag: neighbours lie in another chunk
    backbone = classifier.backbone
    classifier.preprocessor = SlicePreprocessor(LUNG, True, 32, None, backbone.mean, backbone.std)
    features = cache(classifier, store, tmp_path)
    for bag_id in store.bags["bag_id"]:
        torch.testing.assert_close(features.rows(bag_id), direct(classifier, store, bag_id), atol=1e-5, rtol=0)


@pytest.mark.parametrize("blocks", [2, 5])
def test_every_view_of_every_bag(store: Store, tmp_path: Path, blocks: int) -> None:
    classifier = tiny_classifier(chunk=4)
    classifier.cut(blocks)
    features = cache(classifier, store, tmp_path, views=8)
    for view in range(8):
        rows = [features.rows(bag_id, view) for bag_id in ("b01", "b03")]
        for found, bag_id in zip(rows, ("b01", "b03"), strict=True):
            torch.testing.assert_close(found, direct(classifier, store, bag_id, view), atol=1e-5, rtol=0)
    assert not torch.allclose(features.rows("b03", 0), features.rows("b03", 6), atol=1e-3)


def test_some_slices_of_a_bag_are_copies(store: Store, tmp_path: Path) -> None:
    features = cache(tiny_classifier(), store, tmp_path)
    kept = torch.tensor([1, 4, 7])
    before = features.rows("b03").clone()
    features.rows("b03").zero_()
    features.rows("b03", 0, kept).zero_()
    assert torch.equal(features.rows("b03"), before)
    assert torch.equal(features.rows("b03", 0, kept), before[kept])


def test_half_precision_is_half_the_size_and_rounded(store: Store, tmp_path: Path) -> None:
    whole, half = (cache(tiny_classifier(), store, tmp_path, precision=p) for p in ("float32", "float16"))
    assert half.rows("b03").dtype == torch.float16
    assert torch.equal(half.rows("b03"), whole.rows("b03").half())
    sizes = sorted(file.stat().st_size for file in entries(tmp_path))
    assert (sizes[1] - 128) == 2 * (sizes[0] - 128)  # numpy's header has 128 bytes


def test_features_beyond_float16_are_refused(store: Store, tmp_path: Path) -> None:
    classifier = tiny_classifier()
    with torch.no_grad():
        classifier.backbone.get_parameter("net.layer4.0.bn2.weight").fill_(1e6)
    with pytest.raises(LungtlError, match=r"features exceed float16 .*cache\.precision=float32"):
        cache(classifier, store, tmp_path, precision="float16")
    assert not list((tmp_path / "cache" / "features").glob("*/"))
    cache(classifier, store, tmp_path)


def test_a_second_run_computes_only_the_probe(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache(tiny_classifier(), store, tmp_path)
    counts: list[int] = []
    forward = TimmBackbone.forward

    def count(backbone: TimmBackbone, batch: torch.Tensor) -> torch.Tensor:
        counts.append(len(batch))
        return forward(backbone, batch)

    monkeypatch.setattr(TimmBackbone, "forward", count)
    again = cache(tiny_classifier(), store, tmp_path)
    assert counts == [1, 1, 1, PROBE_SLICES]  # folding, verified with one image, and the probe
    assert all(torch.equal(again.rows(bag_id), first.rows(bag_id)) for bag_id in store.bags["bag_id"])
    assert len(entries(tmp_path)) == 1


def test_a_loader_process_opens_the_entry_instead_of_copying_it(store: Store, tmp_path: Path) -> None:
    features = cache(tiny_classifier(), store, tmp_path)
    sent = pickle.dumps(features)
    assert features.rows("b03").numpy().tobytes()[:64] not in sent
    assert torch.equal(pickle.loads(sent).rows("b03"), features.rows("b03"))  # noqa: S301


@pytest.mark.parametrize("mode", [True, False])
def test_the_network_is_unchanged(store: Store, tmp_path: Path, mode: bool) -> None:
    classifier = tiny_classifier().train(mode)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    features = cache(classifier, store, tmp_path)
    assert classifier.training == mode
    after = classifier.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    # and evaluation mode is what was computed in
    torch.testing.assert_close(features.rows("b03"), direct(tiny_classifier(), store, "b03"), atol=1e-5, rtol=0)


def test_what_a_killed_run_left_behind_is_removed(store: Store, tmp_path: Path) -> None:
    cache(tiny_classifier(), store, tmp_path / "clean")
    (entry,) = entries(tmp_path / "clean")
    folder = tmp_path / "cache" / "features"
    for name in (entry.parent.name, "0123456789abcdef"):  # its own, and another's
        (folder / f"{name}.partial").mkdir(parents=True)
        (folder / f"{name}.partial" / "features.npy").write_bytes(b"half of it")
    cache(tiny_classifier(), store, tmp_path)
    assert entries(tmp_path)[0].read_bytes() == entry.read_bytes()
    assert not list(folder.glob("*.partial"))


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 4)


def other_shape(file: Path) -> None:
    array = np.load(file)
    np.save(file, array.reshape(-1, array.shape[1] // 2))


def other_type(file: Path) -> None:
    np.save(file, np.load(file).view(np.int32))


@pytest.mark.parametrize("damage", [cut_short, other_shape, other_type, Path.unlink])
def test_a_damaged_entry_is_computed_again(
    store: Store, tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    cache(tiny_classifier(), store, tmp_path)
    (file,) = entries(tmp_path)
    before = file.read_bytes()
    damage(file)
    with caplog.at_level("WARNING"):
        cache(tiny_classifier(), store, tmp_path)
    assert f"entry {file.parent.name} is damaged" in caplog.text
    assert entries(tmp_path)[0].read_bytes() == before
    caplog.clear()
    cache(tiny_classifier(), store, tmp_path)
    assert not caplog.records


def test_an_entry_beyond_the_bound_is_not_made(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cached_features(tiny_classifier(), store, tmp_path, CPU, "w", max_gb=1e-6) is None
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "cache.max_gb=1e-06" in caplog.text
    assert entries(tmp_path) == []


def test_a_new_entry_evicts_the_least_recently_used(store: Store, tmp_path: Path) -> None:
    bound = 2.5 * LAYOUT.size / 1e9
    names = {}
    for age, weights in ((30, "a"), (20, "b")):
        cache(tiny_classifier(), store, tmp_path, weights, max_gb=bound)
        names[weights] = next(e for e in CacheFolder(tmp_path).entries() if e.address["weights"] == weights).folder
        os.utime(names[weights] / "address.json", (time.time() - age,) * 2)
    cache(tiny_classifier(), store, tmp_path, "a", max_gb=bound)  # used again: b is the older one now
    cache(tiny_classifier(), store, tmp_path, "c", max_gb=bound)
    assert {e.address["weights"] for e in CacheFolder(tmp_path).entries()} == {"a", "c"}


def test_a_full_disk_leaves_no_entry(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    monkeypatch.setattr("lungtl.training.feature_cache._compute", lambda *_: pytest.fail("the space comes first"))
    with pytest.raises(LungtlError, match=r"cache\.precision=float16 or cache\.enabled=false"):
        cache(tiny_classifier(), store, tmp_path)
    assert not list((tmp_path / "cache" / "features").glob("*/"))


def test_a_failure_leaves_no_entry(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(TimmBackbone, "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cache(tiny_classifier(), store, tmp_path)
    assert entries(tmp_path) == []
    cache(tiny_classifier(), store, tmp_path)
    assert len(entries(tmp_path)) == 1


def test_the_address_is_stored_with_the_features(store: Store, tmp_path: Path) -> None:
    cache(tiny_classifier(), store, tmp_path, "abc")
    address = json.loads((entries(tmp_path)[0].parent / "address.json").read_text())
    assert address["store"] == store.fingerprint
    assert address["weights"] == "abc"
    assert address["preprocessing"] == tiny_classifier().preprocessor.describe()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a CUDA GPU")
@pytest.mark.parametrize("blocks", [2, 5])
def test_a_gpu_computes_the_rows_that_a_cpu_computes(store: Store, tmp_path: Path, blocks: int) -> None:
    found = []
    for device in (CPU, torch.device("cuda")):
        classifier = tiny_classifier(chunk=4)
        classifier.cut(blocks)
        features = cached_features(classifier, store, tmp_path / device.type, device, "w")
        assert features is not None
        found.append(torch.cat([features.rows(bag_id) for bag_id in store.bags["bag_id"]]))
    torch.testing.assert_close(found[1], found[0], atol=1e-2, rtol=1e-2)  # TF32
