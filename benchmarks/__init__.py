"""Measurements, each a script of its own.

`speed.py` (run time), `pass_time.py` (compile time), `rope_projection.py` (rotary tables) and
`near_ties.py` (how often rounding decides who merges, on a real model and real photographs).
"""
