from tests.slurm.cluster import cluster, options, start_sweep, two, whole  # noqa: F401
