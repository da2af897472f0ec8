"""Slices -> one bag logit: one aggregator a file."""
