"""Prepared stores, patient splits, windows and batches."""
