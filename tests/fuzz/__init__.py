"""Read mutated CT series: `make fuzz` (10,000 of them), and a small part of them in the tests."""
