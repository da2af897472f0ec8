"""A sweep (`-m`) as one thing: its folder, the states of its children, its run in MLflow, and how it goes on."""
