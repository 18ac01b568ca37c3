"""Sphinx extensions that make pages of what the code says of itself."""
