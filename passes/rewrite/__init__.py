"""The graph on merged tokens, as far as that pays."""
