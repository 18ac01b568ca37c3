"""How many tokens every block removes."""
