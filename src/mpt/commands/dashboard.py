"""A W&B workspace for a sweep, as code: built and checked offline, saved if there is an account.

It shows accuracy over the fraction removed, over width and over depth, with running means; the epochs of every run;
gain and flips of each layer. All runs of the sweep appear, whatever their budget.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpt.files import DISTRIBUTION, HOME, write_atomically

USAGE = "mpt-dashboard SWEEP [entity=NAME] [project=mpt] [file=SWEEP-dashboard.json]"


def build(arguments: list[str]) -> str:
    """Build the workspace that the arguments of ``mpt-dashboard`` name, write it to a file and save it online.

    Returns:
        The line to print.
    """
    names = [argument for argument in arguments if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(names) != 1 or not options.keys() <= {"entity", "project", "file"} or not all(options.values()):
        got = " ".join(arguments) or "nothing"
        raise ValueError(f"name one sweep: {USAGE}, got {got}")
    known = sorted(path.stem for path in (HOME / "sweeps").glob("*.yaml"))
    if names[0] not in known:
        raise ValueError(f"there is no sweep {names[0]}: take one of {', '.join(known)}")
    if not find_spec("wandb_workspaces"):
        raise ValueError(f"a dashboard needs a package: pip install '{DISTRIBUTION}[dashboards]'")
    path = Path(options.get("file", f"{names[0]}-dashboard.json"))
    build_for = partial(workspace, names[0], project=options.get("project", "mpt"))
    view = build_for(entity=options.get("entity", "nobody"))
    write_atomically(path, view._to_model().model_dump_json(indent=1, by_alias=True) + "\n")
    return f"{path}: checked against W&B's schema; {_save(build_for, options.get('entity'))}"


def _save(build_for: Callable[..., Any], entity: str | None) -> str:
    """Save the workspace to the account or team ``entity``, by default the user's; say in words how that went."""
    import wandb

    try:
        if not wandb.login(prompt=False):
            return "not saved online, because there is no account: run wandb login"
        view = build_for(entity=entity or str(wandb.Api().default_entity))
        view.save()
    except Exception as error:  # of the network, W&B's server or its client
        return f"not saved online: {error}"
    return f"saved as {view.url}"


def workspace(sweep: str, *, entity: str, project: str) -> Any:
    """The ``wandb_workspaces`` object, which refuses anything outside its schema."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"mpt {sweep}",
        sections=_sections(),
        settings=ws.WorkspaceSettings(max_runs=300),
        runset_settings=ws.RunsetSettings(
            filters=f"Config('sweep') = '{sweep}'",
            groupby=[ws.Config(name) for name in ("model.name", "method.name", "binary_activations", "prune", "width")],
            pinned_columns=["summary:test_acc", "summary:density", "config:seed"],
        ),
    )


def _sections() -> list[Any]:
    wr: Any = import_module("wandb_workspaces.reports.v2")
    ws: Any = import_module("wandb_workspaces.workspaces")

    def accuracy(option: str, title: str) -> Any:
        return wr.ScatterPlot(
            title=title, x=wr.Config(option), y=wr.SummaryMetric("test_acc"), running_ymean=True, legend_template=LEGEND
        )

    def epochs(title: str, metric: str, *, every_layer: bool = False) -> Any:
        metrics = {"metric_regex": f"{metric}/.*"} if every_layer else {"y": [metric]}
        return wr.LinePlot(title=title, legend_template=LEGEND, max_runs_to_show=100, **metrics)

    return [
        ws.Section(
            name="Accuracy of the tickets",
            is_open=True,
            panels=[
                accuracy("prune", "over the fraction removed"),
                accuracy("width", "over width"),
                wr.BarPlot(
                    title="over depth",
                    metrics=[wr.SummaryMetric("test_acc")],
                    groupby=wr.Config("model.name"),
                    groupby_aggfunc="mean",
                    groupby_rangefunc="minmax",
                ),
                wr.ScatterPlot(title="over size", x=wr.SummaryMetric("num_kept"), y=wr.SummaryMetric("test_acc")),
            ],
        ),
        ws.Section(
            name="Epochs",
            panels=[
                epochs("test accuracy", "test/acc"),
                epochs("loss", "train/loss"),
                epochs("flips: share of the mask that changed", "ticket/flips"),
                epochs("density", "ticket/density"),
            ],
        ),
        ws.Section(
            name="Layers",
            panels=[
                epochs("gain of each layer", "ticket/gain", every_layer=True),
                epochs("flips of each layer", "ticket/flips", every_layer=True),
                epochs("binarization error of each layer", "ticket/binarization_error", every_layer=True),
            ],
        ),
    ]


LEGEND = "${config:model.name} ${config:method.name} ${config:prune} ${config:width}"
