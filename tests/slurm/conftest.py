from tests.slurm.cluster import cluster, options, start_sweep, whole  # noqa: F401
