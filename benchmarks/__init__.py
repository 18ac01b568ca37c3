"""Benchmarks, each a script of its own: `speed.py` (run time) and `pass_time.py` (compile time)."""
