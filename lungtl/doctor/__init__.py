"""What `python -m lungtl.doctor` looks at, one subject a module; each check yields `Finding`s."""
