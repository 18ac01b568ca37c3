"""Any traced program → one pre-dispatch ATen graph."""
