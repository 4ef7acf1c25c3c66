"""What the theorems promise, and tickets that are constructed from a trained network instead of searched."""
