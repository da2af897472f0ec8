"""Grad-CAM on the backbone's last feature maps: where in a slice the bag's malignancy score comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungtl.data.field_of_view import UNKNOWN_SPACING, Spacing, spread
from lungtl.models.backbones.base import Backbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.module_state import evaluation_mode
from lungtl.settings.errors import LungtlError

POOLS = ("global_pool", "head")  # timm's names of the child module that pools a network's last feature maps


def slice_heatmaps(
    classifier: BagClassifier,
    frames: Tensor,
    indices: Sequence[int],
    rows: Tensor | None = None,
    spacing_mm: Spacing = UNKNOWN_SPACING,
) -> NDArray[np.float32]:
    """Grad-CAM heatmaps of some slices of a bag.

    map = ReLU(sum_k a_k A_k), where A_k is channel k of the backbone's last feature maps and a_k the spatial mean of
    d(bag logit) / d A_k. The gradient passes through the aggregator, so a slice of weight 0 has an empty map, and the
    maps of one bag share one scale. Convolutional networks: the maps that are pooled; with features="stages" those of
    the last stage. Vision transformers: the patch tokens that enter the last attention, since only the class token
    may be read after it. Several scales: the sum of their maps, each in its own field of view.

    Selvaraju et al.: Grad-CAM, ICCV 2017; computed with `captum`.

    Args:
        classifier: trained; used in evaluation mode and left unchanged.
        frames: int16 [S, C, H, W], all slices of one bag; with `rows` only the chosen ones, [n, C, H, W].
        indices: the n slices of the bag to map.
        rows: float [S, K], the features of all slices (see `classifier.prefix`); None computes them from the frames.
        spacing_mm: of the rows and columns of the slices, which fields of view in mm require.

    Returns:
        float32 [n, H, W] in the pixels of the slices, >= 0; 0 outside the field of view of the classifier.

    Raises:
        LungtlError: captum is not installed, or the network's feature maps were not found.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise LungtlError("heatmaps need the package captum; pip install 'lungtl[explain]'") from error
    if rows is not None and len(frames) != len(indices):
        raise LungtlError(f"got {len(frames)} frames for {len(indices)} indices; with rows, pass one frame for each")
    device = next(classifier.parameters()).device
    # cuDNN's recurrent layers have no backward pass in evaluation mode
    with evaluation_mode(classifier), torch.inference_mode(False), torch.backends.cudnn.flags(enabled=False):
        chosen = torch.tensor(list(indices), device=device)
        with torch.no_grad():
            if rows is None:
                embeddings = classifier.embed(frames.to(device), spacing_mm)
                frames = frames[list(indices)]
            else:
                embeddings = classifier.suffix(rows.to(device).float())
            images = classifier.preprocessor(frames.to(device), spacing_mm)

        def bag_logit(images: Tensor) -> Tensor:
            h = classifier.projection(embeddings.index_copy(0, chosen, classifier.embed_images(images))).unsqueeze(0)
            real = torch.ones(h.shape[:2], dtype=torch.bool, device=device)
            logit: Tensor = classifier.aggregator(h, classifier.slice_head(h), real)[0]
            return logit

        with _last_maps(classifier.backbone) as maps:
            cam: Tensor = LayerGradCam(bag_logit, maps).attribute(images, relu_attributions=True)
    shape = (frames.shape[-2], frames.shape[-1])
    fields = classifier.preprocessor.fields(shape, spacing_mm)
    scales = cam.detach().view(len(indices), len(fields), *cam.shape[-2:]).unbind(1)
    maps_of_scales = [spread(scale, field, shape) for scale, field in zip(scales, fields, strict=True)]
    heatmaps: NDArray[np.float32] = sum(maps_of_scales[1:], maps_of_scales[0]).cpu().numpy()
    return heatmaps


@contextmanager
def _last_maps(backbone: Backbone) -> Iterator[nn.Module]:
    """Insert an identity module through which the last feature maps pass, as float [N, channels, h, w]."""
    net: Any = getattr(backbone, "net", backbone)
    identity = nn.Identity()

    def from_tokens(module: nn.Module, args: Any, tokens: Tensor) -> Tensor:
        prefix, patches = tokens.split([net.num_prefix_tokens, tokens.shape[1] - net.num_prefix_tokens], dim=1)
        maps = patches.transpose(1, 2).unflatten(2, net.patch_embed.grid_size)
        return torch.cat([prefix, identity(maps).flatten(2).transpose(1, 2)], dim=1)

    def from_maps(module: nn.Module, args: Any, maps: Tensor) -> Tensor:
        if maps.ndim != 4:
            shape = tuple(maps.shape)
            raise LungtlError(f"no heatmaps of {backbone.name}: feature maps have shape {shape}, expected 4 dimensions")
        if getattr(net, "output_fmt", "NCHW") == "NHWC":
            channels_last: Tensor = identity(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return channels_last
        channels_first: Tensor = identity(maps)
        return channels_first

    if hasattr(net, "num_prefix_tokens") and hasattr(net, "blocks") and hasattr(net.blocks[-1], "norm1"):
        handle = net.blocks[-1].norm1.register_forward_hook(from_tokens)
    else:
        handle = _before_pooling(backbone).register_forward_hook(from_maps)
    try:
        yield identity
    finally:
        handle.remove()


def _before_pooling(backbone: Backbone) -> nn.Module:
    """The module whose output a convolutional network pools."""
    net: Any = getattr(backbone, "net", backbone)
    if backbone.features == "stages" and hasattr(net, "feature_info"):
        stage: nn.Module = net.get_submodule(net.feature_info[-1]["module"])
        return stage
    children = list(net.named_children())
    for (_, before), (name, _) in pairwise(children):
        if name in POOLS:
            return before  # type: ignore[no-any-return]
    raise LungtlError(f"no heatmaps of {backbone.name}: it has no pooling layer named {' or '.join(POOLS)}")
