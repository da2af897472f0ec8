"""One run: its folder, its record, and what training and evaluation write into it."""
