"""The training loop, for every system."""
