"""The result: a file of bits. Save, load, check, apply."""
