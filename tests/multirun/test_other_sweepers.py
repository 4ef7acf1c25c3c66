from __future__ import annotations

from types import SimpleNamespace

from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext

from mpt.commands.cli import _job
from mpt.multirun.other_sweepers import launch
from tests.console import SMALL, results
from tests.multirun.test_expand import sweeper_of


def test_each_run_gives_its_objective_and_a_failed_one_none_and_none_is_run_twice(tmp_path, capfd):
    sweeper = sweeper_of("hydra.runtime.cwd=.", f"hydra.runtime.output_dir={tmp_path}", f"hydra.sweep.dir={tmp_path}")
    context = HydraContext(config_loader=sweeper.hydra_context.config_loader, callbacks=Callbacks())
    launcher = SimpleNamespace(config=sweeper.config, hydra_context=context, task_function=_job)
    overrides = [[*SMALL, "epochs=1", "method=dense", f"optim.lr={lr}"] for lr in ("0.01", "1e30", "0.01")]
    returns = launch(launcher, overrides)
    rows = results(tmp_path)
    done = next(row for row in rows.values() if row["status"] == "done")
    assert [each.return_value for each in returns] == [done["test_acc"], None, done["test_acc"]]
    assert len(rows) == 2
    assert "the search diverged" in capfd.readouterr().err
