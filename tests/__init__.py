"""Tests; each states a law or a fact of the library."""
