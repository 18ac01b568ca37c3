"""Axes, token spaces, dimensions, and the table of token rules."""
