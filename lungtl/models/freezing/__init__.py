"""Freezing strategies (which parameters train, when, at which learning rate), one per file."""
