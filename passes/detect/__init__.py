"""Dimension identities, attention sites, merge points, protected tokens."""
