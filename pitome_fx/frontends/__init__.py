"""The pass outside torch.compile: ``transform`` and ``explain``."""
