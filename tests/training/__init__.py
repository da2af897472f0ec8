from lungtl.models.compat import ensure_torchvision

ensure_torchvision()  # these tests import timm themselves
