"""Deliberate bugs in the library (``table``): the suite must notice each of them (``run``)."""
