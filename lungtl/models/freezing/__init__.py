"""Which parameters train, when, and at which learning rate: one strategy a file."""
