from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from lungtl.models.backbones.base import Backbone
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.lora import Lora
from lungtl.settings.errors import LungtlError, UsageError
from tests.models.freezing.cases import (
    LITE,
    NETWORKS,
    RESNET,
    VIT,
    adapted_module,
    epochs_of,
    needs_peft,
    optimizer_of,
    rates,
)
from tests.models.tiny import tiny_backbone


def adapted_layers(name: str, freezing: Lora) -> dict[str, nn.Module]:
    """The layers that have an adapter, by name."""
    backbone = tiny_backbone(name=name)
    layers = dict(backbone.net.named_modules())
    freezing.adapt(backbone)
    names = {
        key.partition(".lora_")[0].removeprefix("net.") for key, _ in backbone.named_parameters() if "lora_" in key
    }
    return {key: layers[key] for key in names}


def embedded(backbone: Backbone, images: Tensor) -> Tensor:
    with torch.no_grad():
        embeddings: Tensor = backbone.eval()(images)
    return embeddings


@needs_peft
@pytest.mark.parametrize("name", NETWORKS)
def test_the_merged_network_is_plain_and_equivalent(name: str) -> None:
    freezing = Lora(rank=2, dropout=0.25)
    module = adapted_module(name, freezing)
    backbone = module.classifier.backbone
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = embedded(backbone, images)
    assert torch.equal(before, embedded(tiny_backbone(name=name), images))  # adapters start at zero
    list(epochs_of(module, optimizer_of(module)))
    backbone.double()  # the embeddings have grown large in these steps: see the difference, not float32's rounding
    images = images.double()
    adapted = embedded(backbone, images)
    freezing.merge(backbone)
    merged = embedded(backbone, images)
    assert not torch.allclose(adapted, before.double(), atol=1e-2)
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=1e-5)

    plain = TimmBackbone(name, weights="none")
    plain.set_input_size(32)
    assert {type(part) for part in backbone.modules()} == {type(part) for part in plain.modules()}
    plain.double().load_state_dict(backbone.state_dict())
    assert torch.equal(embedded(plain, images), merged)


@needs_peft
def test_the_product_counts_by_alpha_over_rank() -> None:
    backbone, freezing = tiny_backbone(name=VIT), Lora(rank=4, alpha=6)
    freezing.adapt(backbone)
    layer = backbone.net.get_submodule("blocks.0.mlp.fc1")
    weight = layer.get_parameter("base_layer.weight").detach().clone()
    a, b = (layer.get_parameter(f"lora_{which}.default.weight") for which in "AB")
    nn.init.normal_(b)
    freezing.merge(backbone)
    expected = weight + 1.5 * b @ a
    torch.testing.assert_close(backbone.net.get_parameter("blocks.0.mlp.fc1.weight"), expected)


@needs_peft
def test_auto_is_linear_layers_in_transformers_and_dense_convolutions_in_cnns() -> None:
    assert set(adapted_layers(VIT, Lora())) == {
        f"blocks.{i}.{layer}" for i in range(12) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    convolutions = adapted_layers(LITE, Lora()).values()
    assert {module.kernel_size for module in convolutions if isinstance(module, nn.Conv2d)} == {(1, 1)}
    assert {module.groups for module in convolutions if isinstance(module, nn.Conv2d)} == {1}
    assert len(adapted_layers(RESNET, Lora())) == 20  # the stem, two in each of eight blocks, three shortcuts


@needs_peft
def test_targets_can_be_chosen() -> None:
    assert set(adapted_layers(VIT, Lora(targets="conv"))) == {"patch_embed.proj"}
    with pytest.raises(UsageError, match=r"freezing\.targets=linear: resnet18 has no such layers"):
        Lora(targets="linear").adapt(tiny_backbone(name=RESNET))


@needs_peft
def test_their_learning_rate() -> None:
    assert rates(Lora(lr_scale=0.5), RESNET, 0.5) == {"head": 0.5, "adapters": 0.25}


def test_lora_requires_adapt_first() -> None:
    with pytest.raises(RuntimeError, match="call adapt first"):
        Lora().frozen_blocks(tiny_backbone())


def test_without_peft_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LungtlError, match=r"freezing=lora needs the package peft; pip install 'lungtl\[lora\]'"):
        Lora().adapt(tiny_backbone())
