"""Measurements, as ratios against public tools in the same run: `make bench`, or `python -m bench publish ready`."""
