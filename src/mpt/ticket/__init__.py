"""The result of a search, a file of bits: save, load, check, apply."""
