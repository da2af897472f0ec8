"""Mutated CT series through the reader: `make fuzz` (10,000 of them), and a short slice of it in the tests."""
