"""Many runs: the axes of a sweep, what is missing, who runs it, how long it takes, and where to watch it.

``sweep.sweep`` is the whole story; a run itself is :func:`mpt.experiment.train.run`.
"""
