"""Plain PyTorch: backbones, freezing strategies, aggregators and the bag classifier built from them."""

from lungtl.models.compat import ensure_torchvision

ensure_torchvision()  # timm imports torchvision
