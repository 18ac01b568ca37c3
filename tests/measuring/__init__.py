"""benchmark, compare and amounts in time: what a user is told of their own model and device."""
