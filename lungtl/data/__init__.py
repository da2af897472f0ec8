"""From stores to batches: windows, splits, loaders."""
