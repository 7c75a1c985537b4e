"""Measurements of speed: `python -m benchmarks.predict --help`."""
