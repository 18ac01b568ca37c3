"""Runnable examples; `python examples/demo.py` is the place to start."""
