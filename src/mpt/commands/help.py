"""The texts of ``--help``, from the settings' classes and the names of the files in ``conf/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from mpt.commands.schemas import (
    BenchSettings,
    BoundsSettings,
    CompileSettings,
    ConstructSettings,
    EvalSettings,
    ExportSettings,
    FigureSettings,
    ImportSettings,
    PageSettings,
    PredictSettings,
    ReportSettings,
)
from mpt.files import CONF, DISTRIBUTION, HOME
from mpt.run.settings import FinetuneSettings, Settings, dials, group_class, spell

NOT_ARGUMENTS = ("name", "target", "defaults")
WIDTH = 22  # of the column of names


def all_commands() -> str:
    return "\n".join(
        [
            "mpt finds and uses multi-prize tickets. Each command explains itself: mpt-train --help,",
            "or one group of its options, mpt-train --help optim.",
            "",
            "  mpt-train              find a ticket, or several: mpt-train recipe=demo",
            "  mpt-status             the runs of a folder: which are done, running, failed, missing",
            "  mpt-eval               the accuracy of a ticket, and controls",
            "  mpt-predict            the classes that a ticket sees in pictures",
            "  mpt-ticket             describe, convert, compile, export or time a ticket",
            "  mpt-finetune           train the weights of a ticket under its mask",
            "  mpt-results            a table of runs",
            "  mpt-plot               a figure of runs",
            "  mpt-verdicts           whether runs bear out the papers' claims",
            "  mpt-report             a page to look at, of a run or of a folder of runs",
            "  mpt-theory             what theorems promise, and tickets that are built so",
            "  mpt-wandb              send offline records to W&B",
            "  mpt-dashboard          a W&B dashboard",
            "  mpt new method NAME    the files of your own method, and a test; mpt new model NAME: of a backbone",
            "",
            "Completion of all commands in bash; in zsh alike, in fish: mpt completion fish | source",
            '  eval "$(mpt completion bash)"',
        ]
    )


def train() -> str:
    return "\n".join(
        [
            "mpt-train finds a multi-prize ticket: an accurate subnetwork of a random network, with binary weights.",
            "",
            "  mpt-train recipe=demo                           the demonstration on embedded digits",
            "  mpt-train model=conv6 prune=0.8 width=1.5       on CIFAR-10",
            "  mpt-train -m prune=0.2,0.5,0.8 seed=0,1,2       nine runs; repeating the command runs what is missing",
            "  mpt-train sweeps=fig2 budget=mini               an experiment of the papers, on a small scale",
            "",
            *_parameters(Settings),
            "",
            "groups (name=choice):",
            *_choices(),
            "",
            *_method_parameters(),
            *_group_parameters(Settings),
            *_choice_arguments("model"),
            *_choice_arguments("method"),
            "",
            "--dry-run lists the run, or the runs of a sweep, estimates time and space, and runs nothing;",
            "--cfg job prints the configuration and runs nothing; --traceback shows where an error comes from;",
            "hydra.run.dir=DIR chooses the run's directory; --hydra-help lists the flags of Hydra.",
        ]
    )


def evaluate() -> str:
    return "\n".join(
        [
            "mpt-eval TICKET measures a ticket file, by default on the test images of the data of its search.",
            "",
            "  mpt-eval runs/x/ticket.safetensors",
            "  mpt-eval runs/x/ticket.safetensors data=image_folder data.root=PICTURES",
            "  mpt-eval runs/x/ticket.safetensors control=random_mask",
            "  mpt-eval runs/x/ticket.safetensors corruptions=CIFAR-10-C json=corruptions.json",
            "",
            "Controls tell a ticket from luck: shuffled_mask permutes the mask of each layer, random_mask draws one",
            "over the network, fresh_weights draws other signs. Batch-norm is estimated again on training images.",
            "",
            *_parameters(EvalSettings),
        ]
    )


def finetune() -> str:
    searched_with = [f.name for f in fields(FinetuneSettings) if f.metadata["search"]]
    return "\n".join(
        [
            "mpt-finetune TICKET trains the weights of a ticket straight through the sign. The mask stays, and the",
            "result is again a ticket, with its history in the header. By default it trains on the data of the search.",
            "",
            "  mpt-finetune runs/x/ticket.safetensors",
            "  mpt-finetune runs/x/ticket.safetensors layers=all optim=adam optim.lr=1e-4 epochs=10",
            "",
            *_parameters(FinetuneSettings, without=searched_with),
            "",
            *_group_parameters(FinetuneSettings),
        ]
    )


def status() -> str:
    states = "done, running, interrupted, failed (and why), or missing in a\nsweep"
    return f"mpt-status DIR lists the runs in a folder: {states}.\n\n  mpt-status runs/fig2-mini"


def wandb() -> str:
    return (
        "mpt-wandb sync DIR sends finished runs, recorded offline (logger=wandb), from a folder to W&B.\n\n"
        "  mpt-wandb sync runs/fig2-mini"
    )


def dashboard() -> str:
    return (
        "mpt-dashboard SWEEP builds a W&B workspace with the curves of a sweep, as a file and in your account,\n"
        f"if there is one (pip install '{DISTRIBUTION}[dashboards]').\n\n"
        "  mpt-dashboard fig2 [entity=NAME] [project=mpt] [file=fig2-dashboard.json]"
    )


def predict() -> str:
    return "\n".join(
        [
            "mpt-predict TICKET PICTURE|FOLDER... prints the class that a ticket sees in each picture, of any size.",
            "Where subfolders have names of classes, it prints the accuracy too.",
            "",
            "  mpt-predict runs/x/ticket.safetensors cat.jpg dog.png",
            "  mpt-predict runs/x/ticket.safetensors PICTURES top=3",
            "  mpt-predict runs/x/ticket.safetensors PICTURES json=predictions.json",
            "",
            *_parameters(PredictSettings),
        ]
    )


def ticket() -> str:
    return "\n".join(
        [
            "mpt-ticket info TICKET prints the layers of a ticket file, the weights kept, and the number of bits.",
            "mpt-ticket report TICKET prints densities, gains, kernels without a weight, and the work that these save.",
            "mpt-ticket draw TICKET writes an SVG file: layers, first kernels, densities of pairs of channels.",
            "mpt-ticket bench TICKET times it in torch, compiled (mpt.compile), and in onnxruntime if it is there.",
            "mpt-ticket import FILE converts a checkpoint that the authors' code wrote.",
            "mpt-ticket pack TICKET [out=FILE] writes the smallest format, unpack the one of mpt 0.1; digests stay.",
            "mpt-ticket compile TICKET writes an object file and a C header: the network for programs without Python.",
            f"mpt-ticket export TICKET writes an ONNX file (pip install '{DISTRIBUTION}[onnx]').",
            "",
            "  mpt-ticket info runs/x/ticket.safetensors",
            "  mpt-ticket report runs/x/ticket.safetensors checkpoint=runs/x/last.ckpt json=report.json",
            "  mpt-ticket draw runs/x/ticket.safetensors out=ticket.svg",
            "  mpt-ticket bench runs/x/ticket.safetensors batch=1,64 threads=1,2",
            "  mpt-ticket import model_best.pth model=cifar_resnet18 prune=0.8",
            "  mpt-ticket compile runs/x/ticket.safetensors out=net.o unroll=true",
            "  mpt-ticket compile runs/x/ticket.safetensors out=net.o target=aarch64-linux-gnu",
            "  mpt-ticket export runs/x/ticket.safetensors out=net.onnx weights=int2",
            "",
            "report, " + _parameters(ReportSettings)[0],
            *_parameters(ReportSettings)[1:],
            "",
            "bench, " + _parameters(BenchSettings)[0],
            *_parameters(BenchSettings)[1:],
            "",
            "import, " + _parameters(ImportSettings)[0],
            *_parameters(ImportSettings)[1:],
            "",
            "compile, " + _parameters(CompileSettings)[0],
            *_parameters(CompileSettings)[1:],
            "",
            "export, " + _parameters(ExportSettings)[0],
            *_parameters(ExportSettings)[1:],
        ]
    )


def report() -> str:
    return "\n".join(
        [
            "mpt-report RUNS writes one HTML file: curves, layers and kernels of a run; of a folder of runs also",
            "their figure, table, verdicts and states. The page loads nothing. watch=true follows a sweep.",
            "",
            "  mpt-report runs/x out=page.html",
            "  mpt-report runs/fig2-mini",
            "  mpt-report runs/fig2-mini watch=true",
            "",
            *_parameters(PageSettings),
        ]
    )


def theory() -> str:
    return "\n".join(
        [
            "mpt-theory bounds TICKET prints what each theorem asks of a trained network: neurons, hidden widths.",
            "mpt-theory construct TICKET builds the promised subnetwork: a ticket with a certificate of its error.",
            "mpt-theory figure draws promised and needed neurons over the accuracy.",
            "",
            "  mpt-train model=mlp model.hidden=[32] data=digits method=dense prune=0 optim=adam optim.lr=3e-3",
            "  mpt-theory bounds runs/x/ticket.safetensors error=0.01 delta=0.05",
            "  mpt-theory bounds model=conv4 in_channels=1 image_size=28 --json",
            "  mpt-theory construct runs/x/ticket.safetensors accuracy=0.01 -o built.safetensors",
            "  mpt-theory construct runs/x/ticket.safetensors accuracy=0.01 form=real keep=closest",
            "  mpt-eval built.safetensors",
            "  mpt-theory figure -o promised.svg",
            "",
            "bounds, " + _parameters(BoundsSettings)[0],
            *_parameters(BoundsSettings)[1:],
            "",
            "construct, " + _parameters(ConstructSettings)[0],
            *_parameters(ConstructSettings)[1:],
            "",
            "figure, " + _parameters(FigureSettings)[0],
            *_parameters(FigureSettings)[1:],
        ]
    )


def _parameters(schema: type, *, without: Sequence[str] = ()) -> list[str]:
    rows = []
    for f in fields(schema):
        group = f.default_factory is dict or group_class(f)
        if not group and f.name not in without and f.metadata["of"] != "input":
            rows.append((f.name, f"{_meaning(f)}{_in_brackets(f)}"))
    return ["parameters (name=value):", *(f"  {name:<{WIDTH}} {text}" for name, text in rows)]


def _group_parameters(schema: type) -> list[str]:
    lines: list[str] = []
    for f in fields(schema):
        if group := group_class(f):
            lines.append(f"{f.name}:")
            rows = dials(group, prefix=f"{f.name}.")
            lines += [f"  {name:<{WIDTH}} {_meaning(inner)}{_in_brackets(inner)}" for name, inner in rows]
    return lines


def _method_parameters() -> list[str]:
    """The arguments of mpt.Biprop, with the meanings in the comments of its YAML file."""
    lines = (CONF / "method" / "biprop.yaml").read_text().splitlines()
    split = [(*line.partition("  # ")[0].split(":", 1), line.partition("  # ")[2]) for line in lines if "  # " in line]
    rows = (f"  {'method.' + name:<{WIDTH}} {text} [{_default(value.strip())}]" for name, value, text in split)
    return ["method:", *rows]


def _meaning(f: Field[Any]) -> str:
    words = f.metadata["valid"].words if f.metadata["valid"] else ""
    limits = f"; must be {words.removeprefix('the fraction removed and must be ')}" if words else ""
    return f"{f.metadata['meaning']}{limits}"


def _in_brackets(f: Field[Any]) -> str:
    """`` [0.1]``, the default of a parameter; empty if it must be given."""
    default = spell(f.default)
    return "" if default == "???" else " []" if f.default is MISSING else f" [{default}]"


def _choices() -> list[str]:
    folders = [CONF / name for name in ("model", "data", "method", "optim", "trainer", "logger", "recipe")]
    folders.append(HOME / "sweeps")
    return [
        f"  {folder.name:<{WIDTH}} {' '.join(sorted(path.stem for path in folder.glob('*.yaml')))}"
        for folder in folders
    ]


def _choice_arguments(group: str) -> list[str]:
    """The arguments in the files of an open group, one line per choice."""
    import yaml

    lines = [f"{group}, by choice (arguments of the class or function {group}.target, which documents them):"]
    for path in sorted((CONF / group).glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        content = content.get(group, content)  # a file that sets more than its group holds it under its name
        arguments = [f"{group}.{key}={_default(value)}" for key, value in content.items() if key not in NOT_ARGUMENTS]
        lines += [f"  {path.stem:<{WIDTH}} {' '.join(arguments)}"] if arguments else []
    return lines if len(lines) > 1 else []


def _default(value: object) -> str:
    """``value`` as it is typed on a command line; of ``${protocol:{kept:x,...}}`` the first value."""
    text = str(value)
    return text.partition("{kept:")[2].partition(",")[0] if text.startswith("${protocol:") else spell(value)
