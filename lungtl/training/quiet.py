"""What Lightning and torch say in every run and nobody can act on."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Silence what a user cannot act on."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # torch before 2.13 knows no other name: https://github.com/pytorch/pytorch/blob/main/torch/nn/parallel/distributed.py
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated.*")
    # loaders over cached features are fastest in the main process:
    # https://lightning.ai/docs/pytorch/stable/advanced/speed.html#dataloaders
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # frozen layers are in evaluation mode on purpose:
    # https://lightning.ai/docs/pytorch/stable/common/lightning_module.html#on-fit-start
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
    # Lightning 2.6 on torch 2.13: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/utilities/_pytree.py
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
