"""Lightning: the module, its losses, the feature cache, and predictions with a trained classifier."""

from lungtl.models.compat import ensure_torchvision

ensure_torchvision()  # Lightning and torchmetrics import torchvision
