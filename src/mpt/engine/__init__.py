"""A ticket that runs: machine code for this processor. Start at engine.py."""
