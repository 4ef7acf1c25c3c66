"""Many runs: the axes of a sweep, its missing runs, the jobs that run them, and an estimate of time and space.

``sweep.sweep`` is the whole story; :func:`mpt.experiment.train.run` is one run.
"""
