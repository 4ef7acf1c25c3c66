"""One run: Lightning and Hydra around the search. ``train.run`` is the whole story of a run."""
