"""What merging gains and costs on a user's own model, inputs and device."""
