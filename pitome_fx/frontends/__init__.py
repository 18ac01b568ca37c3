"""The pass outside torch.compile: ``transform``, ``explain`` and ``tokens``."""
