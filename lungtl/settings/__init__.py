"""Compose, validate and run a command line, and report what is wrong with it in one line."""
