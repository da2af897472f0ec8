"""Plain PyTorch: backbones, freezing strategies, aggregators and the classifier they make up."""

from lungtl.models.compat import ensure_torchvision

ensure_torchvision()  # timm imports torchvision
