"""Lightning: the module, its losses, callbacks, and the feature cache."""

from lungtl.models.compat import ensure_torchvision

ensure_torchvision()  # Lightning and torchmetrics import torchvision
