"""The zoo: small models of every family, each with the verdict that the pass must reach.

One line a model (``Entry``), one file a source (timm, transformers…). ``check`` runs a model
through the pass beside its simulation; ``coverage`` writes docs/model-coverage.md.
"""
