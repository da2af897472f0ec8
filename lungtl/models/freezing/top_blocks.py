"""The blocks of a backbone, counted from its output."""

from __future__ import annotations

from lungtl.models.backbones.timm_backbone import Block, TimmBackbone
from lungtl.settings.errors import UsageError


def top_blocks(backbone: TimmBackbone, count: int | None, option: str) -> list[Block]:
    """The last blocks, the one at the output first.

    Args:
        backbone: whose blocks, by timm's own grouping.
        count: how many; None for all.
        option: the config key that `count` comes from, for the message.

    Raises:
        UsageError: the backbone has fewer blocks.
    """
    blocks = backbone.blocks()[::-1]
    if count is not None and count > len(blocks):
        raise UsageError(f"{option}={count}: {backbone.name} has {len(blocks)} blocks; give 1 to {len(blocks)}")
    return blocks[:count]
