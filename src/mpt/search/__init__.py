"""The algorithm: scores -> mask -> gain -> ticket weight. torch and NumPy only."""
