"""What ``--help`` prints, from the typed configuration and the names of the files in conf/. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass

NOT_ARGUMENTS = ("name", "target", "defaults")


def wanted(arguments: Sequence[str]) -> bool:
    """True if help is asked for. ``--hydra-help`` stays Hydra's own."""
    return any(argument in ("-h", "--help") for argument in arguments)


def train() -> str:
    from mpt.experiment.config import Config

    return "\n".join(
        [
            "mpt-train finds a multi-prize ticket: a subnetwork of a random network that classifies, one bit a weight.",
            "",
            "  mpt-train recipe=demo                           the demonstration on embedded digits",
            "  mpt-train model=conv6 prune=0.8 width=1.5       on CIFAR-10",
            "  mpt-train -m prune=0.2,0.5,0.8 seed=0,1,2       nine runs; repeating the command runs what is missing",
            "  mpt-train sweeps=fig2 budget=mini               an experiment of the papers, in outline",
            "",
            *_parameters(Config),
            "",
            "groups (name=choice):",
            *_choices(),
            "",
            *_method_parameters(),
            *_group_parameters(Config),
            *_choice_arguments("model"),
            *_choice_arguments("method"),
            "",
            "--dry-run says what a sweep would run, how long and how large, and runs nothing;",
            "--cfg job prints the configuration and does nothing; --traceback shows where an error comes from;",
            "hydra.run.dir=DIR chooses the run's directory; --hydra-help lists the flags of Hydra.",
        ]
    )


def evaluate() -> str:
    from mpt.experiment.schemas import EvalConfig

    return "\n".join(
        [
            "mpt-eval TICKET measures a ticket file, by default on the test images of the data it was searched for.",
            "",
            "  mpt-eval runs/x/ticket.safetensors",
            "  mpt-eval runs/x/ticket.safetensors data=image_folder data.root=PICTURES",
            "  mpt-eval runs/x/ticket.safetensors control=random_mask",
            "  mpt-eval runs/x/ticket.safetensors corruptions=CIFAR-10-C json=corruptions.json",
            "",
            "Controls tell a ticket from luck: shuffled_mask permutes the mask of each layer, random_mask draws one",
            "over the network, fresh_weights redraws the signs; batch-norm is estimated anew on training images.",
            "",
            *_parameters(EvalConfig),
        ]
    )


def finetune() -> str:
    from mpt.experiment.schemas import SEARCHED_WITH, FinetuneConfig

    return "\n".join(
        [
            "mpt-finetune TICKET trains the weights of a ticket straight through the sign: the mask stays, and the",
            "result is again a ticket, with its history in the header. By default on the data it was searched for.",
            "",
            "  mpt-finetune runs/x/ticket.safetensors",
            "  mpt-finetune runs/x/ticket.safetensors layers=all optim=adam optim.lr=1e-4 epochs=10",
            "",
            *_parameters(FinetuneConfig, without=SEARCHED_WITH),
            "",
            *_group_parameters(FinetuneConfig),
        ]
    )


def status() -> str:
    return (
        "mpt-status DIR lists the runs in a folder: done, running, failed (and why), or missing of a sweep.\n\n"
        "  mpt-status runs/fig2-mini"
    )


def wandb() -> str:
    return (
        "mpt-wandb sync DIR gives the finished runs in a folder, recorded offline (logger=wandb), to W&B.\n\n"
        "  mpt-wandb sync runs/fig2-mini"
    )


def dashboard() -> str:
    return (
        "mpt-dashboard SWEEP builds a W&B workspace with the curves of a sweep: as a file, and in your account\n"
        "if there is one (pip install 'multiprize[dashboards]').\n\n"
        "  mpt-dashboard fig2 [entity=NAME] [project=mpt] [file=fig2-dashboard.json]"
    )


def ticket() -> str:
    from mpt.experiment.schemas import ImportConfig, ReportConfig

    return "\n".join(
        [
            "mpt-ticket info TICKET prints the layers of a ticket file, the weights kept, and the bits they take.",
            "mpt-ticket report TICKET prints densities, gains, kernels without a weight, and what they would save.",
            "mpt-ticket import FILE makes a ticket of a checkpoint that the authors' code wrote.",
            "",
            "  mpt-ticket info runs/x/ticket.safetensors",
            "  mpt-ticket report runs/x/ticket.safetensors checkpoint=runs/x/last.ckpt json=report.json",
            "  mpt-ticket import model_best.pth model=cifar_resnet18 prune=0.8",
            "",
            "report, " + _parameters(ReportConfig)[0],
            *_parameters(ReportConfig)[1:],
            "",
            "import, " + _parameters(ImportConfig)[0],
            *_parameters(ImportConfig)[1:],
        ]
    )


def _parameters(schema: type, *, without: Sequence[str] = ()) -> list[str]:
    rows = []
    for f in [f for f in fields(schema) if f.name not in without]:
        nested = f.default_factory is not MISSING and (
            f.default_factory is dict or (isinstance(f.default_factory, type) and is_dataclass(f.default_factory))
        )
        if not nested and "meaning" in f.metadata:
            default = f.default if f.default is not MISSING else "[]"
            rows.append((f.name, f"{f.metadata['meaning']}{_range(f)} [{_shown(default)}]"))
    return ["parameters (name=value):", *(f"  {name:<20} {text}" for name, text in rows)]


def _group_parameters(schema: type) -> list[str]:
    lines: list[str] = []
    for f in fields(schema):
        nested = f.default_factory
        if nested is not MISSING and isinstance(nested, type) and is_dataclass(nested):
            lines.append(f"{f.name}:")
            lines += [
                f"  {f.name + '.' + inner.name:<20} {inner.metadata['meaning']}{_range(inner)}"
                for inner in fields(nested)
            ]
    return lines


def _method_parameters() -> list[str]:
    """The arguments of mpt.Biprop with their meanings, which stand behind them in its YAML."""
    from mpt.experiment.config import CONF

    lines = (CONF / "method" / "biprop.yaml").read_text().splitlines()
    split = [(line.partition(":")[0], line.partition("  # ")[2]) for line in lines if "  # " in line]
    return ["method:", *(f"  {'method.' + name:<20} {meaning}" for name, meaning in split)]


def _range(f: object) -> str:
    must = getattr(f, "metadata", {}).get("must", "")
    return f", {must.removeprefix('the fraction removed and must be ')}" if must else ""


def _shown(default: object) -> str:
    if default is None:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _choices() -> list[str]:
    from mpt.experiment.config import CONF, HOME

    folders = [CONF / name for name in ("model", "data", "method", "optim", "trainer", "logger", "recipe")]
    folders.append(HOME / "sweeps")
    return [
        f"  {folder.name:<20} {' '.join(sorted(path.stem for path in folder.glob('*.yaml')))}" for folder in folders
    ]


def _choice_arguments(group: str) -> list[str]:
    """The arguments that the files of an open group give, by choice: those of what its ``target`` names."""
    import yaml

    from mpt.experiment.config import CONF

    lines = [f"{group}, by choice (arguments of what {group}.target names, where their meanings stand):"]
    for path in sorted((CONF / group).glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        content = content.get(group, content)  # a file that sets more than its group holds it under its name
        given = [f"{group}.{key}={_default(value)}" for key, value in content.items() if key not in NOT_ARGUMENTS]
        lines += [f"  {path.stem:<20} {' '.join(given)}"] if given else []
    return lines if len(lines) > 1 else []


def _default(value: object) -> str:
    """As it stands on the command line; of ``${protocol:{kept:x,...}}`` the first."""
    text = str(value)
    return text.partition("{kept:")[2].partition(",")[0] if text.startswith("${protocol:") else _shown(value)
