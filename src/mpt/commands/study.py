"""A study of optuna, ``hydra/sweeper=optuna``: what its sweeper leaves unsaid, in one place."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CHOICE, _SWEEPER = "hydra/sweeper=optuna", "hydra_plugins.hydra_optuna_sweeper"


@contextmanager
def study(overrides: Sequence[str]) -> Iterator[None]:
    """Inside, optuna's sweeper prints the best of its study, if the command line ``overrides`` choose that sweeper.

    Raises:
        ValueError: it cannot do what is asked, or none of its runs ended well.
    """
    if _CHOICE not in overrides:
        yield
        return
    _check(overrides)
    _raise_the_objective()
    logger, handler = logging.getLogger(_SWEEPER), logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.getMessage().startswith("Best"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with _grids_end_quietly():
            yield
    except ValueError as error:
        if "No trials are completed" in str(error):
            raise ValueError("no run of the study ended well, so there is no best one: see above why") from error
        raise
    finally:
        logger.removeHandler(handler)


def _raise_the_objective() -> None:
    """The sweeper's defaults: one run after another, to raise the objective; a failed run is a failed trial."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    if "optuna.yaml" in store.list("hydra/sweeper"):  # the extra optuna has it
        node = store.load("hydra/sweeper/optuna.yaml").node
        node.direction, node.n_jobs = "maximize", 1
        node.max_failure_rate = 1.0  # of the runs that start together; above it the study would end
        store.store(group="hydra/sweeper", name="optuna", node=node, provider="mpt")


@contextmanager
def _grids_end_quietly() -> Iterator[None]:
    """Inside, the end of a grid is no error: Hydra's sweeper forgives optuna's only after a run that ended well."""
    if find_spec("optuna") is None:
        yield
        return
    from optuna.samplers import GridSampler

    sampler: Any = GridSampler
    after_trial = sampler.after_trial

    def after(self: Any, *arguments: Any) -> None:
        with suppress(RuntimeError):  # Study.stop outside of Study.optimize
            after_trial(self, *arguments)

    sampler.after_trial = after
    try:
        yield
    finally:
        sampler.after_trial = after_trial


def _check(overrides: Sequence[str]) -> None:
    if "hydra.sweeper.dry_run=true" in overrides:
        raise ValueError("--dry-run cannot list the runs of a study, whose values optuna chooses: leave it out")
    from importlib import metadata  # here, as importing it delays every command

    stored = any(o.startswith("hydra.sweeper.storage=") and not o.endswith("=null") for o in overrides)
    if stored and not metadata.version("sqlalchemy").startswith("1."):  # optuna 2, which Hydra's sweeper needs
        raise ValueError(
            "hydra.sweeper.storage needs an older package: pip install 'sqlalchemy<2' 'alembic<1.14', or leave it out"
        )
    own = [override for override in overrides if not override.startswith("hydra")]
    for override in own:
        ends = re.search(rf"interval\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)", override)
        if ends and float(ends[1]) >= float(ends[2]):
            raise ValueError(f"{override} is an empty interval: write its lower end first")
    listed = any(re.search(r"=.*[(,]", override) for override in own)
    elsewhere = ("hydra.sweeper.params", "hydra.sweeper.search_space", "hydra.searchpath")
    if not listed and not any(override.lstrip("+").startswith(elsewhere) for override in overrides):
        raise ValueError("a study needs an option whose value optuna chooses, as in 'prune=interval(0.3,0.9)'")
