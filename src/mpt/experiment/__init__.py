"""One run in torch: built, trained, measured, recorded. ``train.run`` is the whole story of a run."""
