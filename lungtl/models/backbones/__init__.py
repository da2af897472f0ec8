"""Slice image -> embedding: timm models and where their weights come from."""
