"""ATen ops and nodes: which op does what to values."""
