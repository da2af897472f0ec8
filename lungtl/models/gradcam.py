"""Where in a slice the bag's malignancy comes from: Grad-CAM on the backbone's last maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.evaluating import evaluating
from lungtl.settings.errors import LungtlError

POOLS = ("global_pool", "head")
"""What timm calls the child of a network that pools its last maps."""


def slice_heatmaps(
    classifier: BagClassifier, frames: Tensor, indices: Sequence[int], rows: Tensor | None = None
) -> NDArray[np.float32]:
    """Map which places of some slices raise the bag's logit.

    map = ReLU(sum_k a_k A_k), where A_k is channel k of the backbone's last maps and a_k the mean over them of
    d(bag logit) / d A_k. It passes through the aggregator, so a slice without weight has an empty map, and the maps of
    one bag share one scale. Convolutional networks: the maps that are pooled; with features="stages" those of the last
    stage. Vision transformers: the patch tokens that enter the last attention, since behind it a class token alone
    may be read.

    Selvaraju et al.: Grad-CAM, ICCV 2017; computed by `captum`. The classifier is left as it was.

    Args:
        classifier: trained, in any mode; it is used in evaluation mode.
        frames: int16 [S, C, H, W], all slices of one bag; with `rows` only the chosen ones, [n, C, H, W].
        indices: which n slices of the bag to map.
        rows: float [S, K], what `classifier.split` computed of all slices; None computes it from the frames.

    Returns:
        float32 [n, H, W] in the pixels of the slices, not negative; 0 outside the crop that the classifier sees.

    Raises:
        LungtlError: captum is not installed, the network has no maps that this module finds, or with `rows` there is
            another number of frames than of indices.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise LungtlError("heatmaps need the package captum; pip install 'lungtl[explain]'") from error
    if rows is not None and len(frames) != len(indices):
        raise LungtlError(
            f"there are {len(frames)} frames for {len(indices)} slices; with rows, give the frames of those"
        )
    device = next(classifier.parameters()).device
    # cuDNN's recurrent layers have no backward pass in evaluation mode
    with evaluating(classifier), torch.inference_mode(False), torch.backends.cudnn.flags(enabled=False):
        chosen = torch.tensor(list(indices), device=device)
        with torch.no_grad():
            if rows is None:
                embeddings = classifier.embed(frames.to(device))
                frames = frames[list(indices)]
            else:
                embeddings = classifier.split.suffix(rows.to(device).float())
            images = classifier.preprocessor(frames.to(device))

        def bag_logit(images: Tensor) -> Tensor:
            h = classifier.projection(embeddings.index_copy(0, chosen, classifier.backbone(images))).unsqueeze(0)
            real = torch.ones(h.shape[:2], dtype=torch.bool, device=device)
            logit: Tensor = classifier.aggregator(h, classifier.slice_head(h), real)[0]
            return logit

        with _last_maps(classifier.backbone) as maps:
            cam: Tensor = LayerGradCam(bag_logit, maps).attribute(images, relu_attributions=True)
    placed: NDArray[np.float32] = _in_slices(cam.detach(), classifier.preprocessor.crop, frames).cpu().numpy()
    return placed


@contextmanager
def _last_maps(backbone: TimmBackbone) -> Iterator[nn.Module]:
    """A module that the network's last maps pass through for a while, as float [N, channels, h, w]."""
    net: Any = backbone.net
    passage = nn.Identity()

    def of_tokens(module: nn.Module, args: Any, tokens: Tensor) -> Tensor:
        prefix, patches = tokens.split([net.num_prefix_tokens, tokens.shape[1] - net.num_prefix_tokens], dim=1)
        maps = patches.transpose(1, 2).unflatten(2, net.patch_embed.grid_size)
        return torch.cat([prefix, passage(maps).flatten(2).transpose(1, 2)], dim=1)

    def of_maps(module: nn.Module, args: Any, maps: Tensor) -> Tensor:
        if maps.ndim != 4:
            raise LungtlError(
                f"{backbone.name}: what is pooled has shape {tuple(maps.shape)}, wanted maps; no heatmaps"
            )
        if getattr(net, "output_fmt", "NCHW") == "NHWC":
            channels_last: Tensor = passage(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return channels_last
        through: Tensor = passage(maps)
        return through

    if hasattr(net, "blocks") and hasattr(net.blocks[-1], "norm1"):
        handle = net.blocks[-1].norm1.register_forward_hook(of_tokens)
    else:
        handle = _pooled(backbone).register_forward_hook(of_maps)
    try:
        yield passage
    finally:
        handle.remove()


def _pooled(backbone: TimmBackbone) -> nn.Module:
    """The module whose output a convolutional network pools."""
    net: Any = backbone.net
    if backbone.features == "stages":
        stage: nn.Module = net.get_submodule(net.feature_info[-1]["module"])
        return stage
    children = list(net.named_children())
    for (_, before), (name, _) in pairwise(children):
        if name in POOLS:
            return before  # type: ignore[no-any-return]
    raise LungtlError(f"{backbone.name} has no child named {' or '.join(POOLS)} that pools its maps; no heatmaps of it")


def _in_slices(cam: Tensor, crop: int | None, frames: Tensor) -> Tensor:
    """Undo the preprocessor's resize and crop: float [n, 1, h, w] -> [n, H, W]."""
    height, width = frames.shape[-2:]
    seen_height, seen_width = (height, width) if crop is None else (crop, crop)
    seen = F.interpolate(cam, (seen_height, seen_width), mode="bilinear", align_corners=False).squeeze(1)
    top, left = (height - seen_height) // 2, (width - seen_width) // 2
    return F.pad(seen, (left, width - seen_width - left, top, height - seen_height - top))
