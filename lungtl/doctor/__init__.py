"""The checks of `python -m lungtl.doctor`, one module per subject; each check yields `Finding`s."""
