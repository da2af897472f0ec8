"""Fields of view in mm, from the store and from DICOM files to predictions, figures and bundles."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from lungtl.bundle import load_bundle, save_bundle
from lungtl.data.bags import BagDataset, collate, dihedral, read_frames, turned
from lungtl.data.field_of_view import spread
from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.gradcam import slice_heatmaps
from lungtl.models.inference import predict_bags
from lungtl.models.slice_projection import SliceProjection
from lungtl.runs.experiment import run_experiment
from lungtl.runs.figures import _draw_montage
from lungtl.runs.model import Model
from lungtl.runs.scored_model import ScoredModel
from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.dicom import DicomSource
from lungtl.tracking.registry import describe, requires_spacing
from lungtl.tracking.served import ServedBundle
from lungtl.training.feature_cache import CachedFeatures, cached_features
from tests.dicom_files import write_series
from tests.models.tiny import LUNG, WIDTH, tiny_backbone, tiny_classifier
from tests.sources.ct.found import only
from tests.stores import toy_store
from tests.training.test_fit import config_of, split_of

CPU = torch.device("cpu")
LENGTHS = (3, 5, 2)
SPACINGS = ((0.5, 0.5), (0.9, 0.6), (0.7, 1.1))  # slices have 32 x 32 pixels
GATED = {"_target_": "lungtl.models.aggregators.gated_attention.GatedAttention", "hidden": 5}
FACTS = {"name": "tiny", "mlflow_run_id": None, "store": "toy", "store_fingerprint": "f", "value_range": None,
         "crop": "none"}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS, spacings=SPACINGS)


def classifier_of(*mm: float, size: int = 32) -> BagClassifier:
    backbone = tiny_backbone(size=size)
    preprocessor = SlicePreprocessor(LUNG, False, size, None, backbone.mean, backbone.std, mm)
    torch.manual_seed(1)
    projection = SliceProjection(backbone.dim * preprocessor.scales, WIDTH, 0.0)
    return BagClassifier(preprocessor, backbone, projection, GatedAttention(WIDTH, 5), chunk=4).eval()


def frames_of(store: Store, bag_id: str) -> torch.Tensor:
    voxels = store.voxels(bag_id)
    return read_frames(voxels, np.arange(len(voxels)), False)


def embeddings(store: Store, bag_id: str, mm: float, view: int = 0) -> torch.Tensor:
    """Of one scale, step by step."""
    classifier = classifier_of(mm)
    images = classifier.preprocessor(dihedral(frames_of(store, bag_id), view), turned(store.spacing_mm(bag_id), view))
    with torch.no_grad():
        embedded: torch.Tensor = classifier.backbone(images)
    return embedded


@pytest.mark.parametrize("blocks", [5, 2])
def test_cached_scales_are_one_embedding_in_every_view(store: Store, tmp_path: Path, blocks: int) -> None:
    classifier = classifier_of(8, 16)
    classifier.cut(blocks)
    features = cached_features(classifier, store, tmp_path, CPU, "w", views=8)
    assert isinstance(features, CachedFeatures)
    for bag_id in ("b01", "b02"):
        for view in (0, 3, 6):
            rows = features.rows(bag_id, view)
            assert rows.shape[1] == classifier.row_width
            with torch.no_grad():
                found = classifier.suffix(rows)
            expected = torch.cat([embeddings(store, bag_id, mm, view) for mm in (8, 16)], dim=1)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mm", [(12,), (8, 16)])
def test_a_batch_with_and_without_cache_and_gradients_gives_the_same(
    store: Store, tmp_path: Path, mm: tuple[float, ...]
) -> None:
    classifier = classifier_of(*mm)
    ids = list(store.bags["bag_id"])
    features = cached_features(classifier, store, tmp_path, CPU, "w")
    cached, read = (predict_bags(classifier, store, ids, each, CPU).bags["probability"] for each in (features, None))
    np.testing.assert_allclose(cached, read, atol=1e-6)
    batch = collate([BagDataset(store, ids, {})[i] for i in range(3)])
    assert batch.frames is not None
    assert batch.spacings == list(SPACINGS)
    learning = classifier(batch.frames, batch.positions, batch.spacings).bag_logits
    assert learning.requires_grad
    np.testing.assert_allclose(learning.detach().sigmoid(), read, atol=1e-6)
    alone = [classifier([frames_of(store, b)], spacings=[store.spacing_mm(b)]).bag_logits for b in ids]
    torch.testing.assert_close(torch.cat(alone), learning, atol=1e-5, rtol=0)


def test_without_mm_the_spacing_changes_nothing(store: Store, tmp_path: Path) -> None:
    unknown = toy_store(tmp_path, LENGTHS)
    assert math.isnan(unknown.spacing_mm("b00")[0])
    ids = list(store.bags["bag_id"])
    found, expected = (predict_bags(classifier_of(), each, ids, None, CPU).bags for each in (store, unknown))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert "crop_mm" not in classifier_of().preprocessor.describe()


def test_heatmaps_of_scales_are_summed_each_in_its_field(store: Store) -> None:
    classifier = classifier_of(8, 16, size=96)
    frames, spacing_mm = frames_of(store, "b01"), store.spacing_mm("b01")
    (heat,) = slice_heatmaps(classifier, frames, [2], spacing_mm=spacing_mm)
    small, large = classifier.preprocessor.fields((32, 32), spacing_mm)
    assert heat.max() > 0
    assert not heat[spread(torch.ones(1, 1), large, (32, 32)) == 0].any()

    images = classifier.preprocessor(frames, spacing_mm)
    kept: list[torch.Tensor] = []
    layer = classifier.backbone.get_submodule("net.layer4")

    def keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = layer.register_forward_hook(keep)
    h = classifier.projection(classifier.embed_images(images)).unsqueeze(0)
    logits = classifier.aggregator(h, classifier.slice_head(h), torch.ones(1, len(frames), dtype=torch.bool))[0]
    logits.sum().backward()
    handle.remove()
    assert kept[0].grad is not None
    cam = (kept[0].grad.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu().detach()
    expected = spread(cam[4:5], small, (32, 32)) + spread(cam[5:6], large, (32, 32))
    np.testing.assert_allclose(heat, expected[0], rtol=1e-3, atol=1e-8)
    rows = classifier.prefix(images).detach()
    (again,) = slice_heatmaps(classifier, frames[[2]], [2], rows, spacing_mm)
    np.testing.assert_allclose(again, heat, rtol=1e-4, atol=1e-8)


def test_montages_show_the_field_of_view_with_true_proportions(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def montage(
        images: Any, captions: Any, labels: Any, title: str, maps: Any = None, aspects: Any = None, outlines: Any = None
    ) -> Figure:
        drawn.update(images=images, maps=maps, aspects=aspects)
        return Figure()

    monkeypatch.setattr("lungtl.runs.figures.montage", montage)
    table = pd.DataFrame({"bag_id": ["b01"], "patient_id": ["p01"], "label": [1], "probability": [0.9]})
    slices = pd.DataFrame({"index": range(5), "z_mm": 0.0, "label": 0, "weight": [0.1, 0.1, 0.6, 0.1, 0.1]})
    model = ScoredModel(classifier_of(6, 12), {}, None, CPU, None, None, None, None, None, True, heatmaps=True)
    _draw_montage(tmp_path, store, model, {"b01": slices}, table, weighted=True, threshold=0.5)
    assert drawn["aspects"] == [pytest.approx(1.5)]
    assert drawn["images"][0].shape == drawn["maps"][0].shape == (14, 20)  # 12 mm of 0.9 and 0.6 mm, whole pixels


def test_raw_dicom_is_predicted_like_the_store_and_a_volume(tmp_path: Path) -> None:
    """Anisotropic pixels, slices 2.5 mm apart."""
    stored = np.random.default_rng(0).normal(400, 150, (6, 40, 48)).astype(np.int16)
    write_series(tmp_path / "scans", [2.5 * k for k in range(6)], stored, PixelSpacing=["0.9", "0.6"])
    series = only(tmp_path / "scans")
    (tmp_path / "labels.csv").write_text(f"series_uid,patient_id,label\n{series.uid},p,1\n")
    store = prepare(DicomSource(str(tmp_path / "scans"), str(tmp_path / "labels.csv")), tmp_path / "data")
    assert store.spacing_mm(series.uid) == (0.9, 0.6)
    classifier = classifier_of(12, 24)
    (expected,) = predict_bags(classifier, store, [series.uid], None, CPU).bags["probability"]
    save_bundle(classifier, GATED, tmp_path / "bundle", FACTS, "# card\n")
    model = Model.open(tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle")[1]["preprocessing"]["crop_mm"] == [12, 24]
    assert model.predict_series(series).probability == pytest.approx(expected, abs=1e-5)
    hu = stored.astype(np.float64) - 1024
    assert model.predict(hu, (2.5, 0.9, 0.6)).probability == pytest.approx(expected, abs=1e-5)
    assert abs(model.predict(hu, (2.5, 0.6, 0.9)).probability - expected) > 1e-4
    served = ServedBundle()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(tmp_path / "bundle")}, model_config=None))
    found = served.predict(None, store.voxels(series.uid), {"pixel_spacing_mm": np.array([0.9, 0.6])})  # type: ignore[no-untyped-call]
    assert found["probability"].tolist() == [pytest.approx(expected, abs=1e-5)]
    assert "pixel_spacing_mm=[row, column]" in describe(FACTS, in_mm=True)
    assert requires_spacing(tmp_path / "bundle")
    (tmp_path / "ensemble" / "members").mkdir(parents=True)
    (tmp_path / "bundle").rename(tmp_path / "ensemble" / "members" / "0")
    (tmp_path / "ensemble" / "config.json").write_text("{}")
    assert requires_spacing(tmp_path / "ensemble")
    with pytest.raises(LungtlError, match="three positive spacings"):
        model.predict(hu, 2.5)
    with pytest.raises(Refused, match=r"crop_mm=60 is more than 2 times as large as the slices \(36\.0 x 28\.8 mm\)"):
        replace(model, classifier=classifier_of(60)).predict_series(series)
    with pytest.raises(LungtlError, match=r"image\.crop_mm=12 requires the pixel spacing"):
        model.predict_voxels(store.voxels(series.uid))


@pytest.mark.parametrize("freezing", ["frozen.Frozen", "full.Full"])
def test_a_run_with_two_scales(tmp_path: Path, freezing: str) -> None:
    lengths = (3, 2, 4, 2, 3, 2, 2, 3, 2, 2, 2, 3)
    data = toy_store(tmp_path, lengths, spacings=[SPACINGS[i % 3] for i in range(12)])
    config = config_of(tmp_path, max_epochs=1, augment="dihedral" if "full" in freezing else "none")
    config = config.model_copy(update={
        "backbone": {**config.backbone, "weights": "none"},
        "freezing": {"_target_": f"lungtl.models.freezing.{freezing}"},
        "image": config.image.model_copy(update={"crop_mm": [8.0, 16.0]}),
    })  # fmt: skip
    split = split_of(data).assign(diameter_mm=math.nan, split=["train"] * 6 + ["val"] * 3 + ["test"] * 3)
    result = run_experiment(config, data, split, tmp_path / "run", name="two")
    assert result is not None
    model = Model.open(tmp_path / "run")
    assert model.classifier.projection.standardise.num_features == 2 * model.classifier.backbone.dim
    for bag_id, probability in result.predictions[["bag_id", "probability"]].to_numpy().tolist():
        found = model.predict_voxels(data.voxels(bag_id), None, data.spacing_mm(bag_id))
        assert found.probability == pytest.approx(probability, abs=1e-5)


def test_a_dataset_without_spacings_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = toy_store(tmp_path, LENGTHS)
    split = data.bags[["bag_id", "patient_id", "diameter_mm"]].assign(label=0, split="train")
    config = config_of(tmp_path)
    config = config.model_copy(update={"backbone": {**config.backbone, "weights": "none"},
                                       "image": config.image.model_copy(update={"crop_mm": [16.0]})})  # fmt: skip
    with pytest.raises(LungtlError, match=r"3 of 3 cases in toy-\w+ .*crop_mm=16 requires the pixel spacing"):
        run_experiment(config, data, split, tmp_path / "run", name="x")
    assert not (tmp_path / "run").exists()
    assert tiny_classifier().preprocessor.crop_mm == []
