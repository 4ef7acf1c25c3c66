"""Every option of a search changes what it leaves, or is refused: none is accepted and forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpt.commands.schemas import THEORY_COMMANDS, TICKET_COMMANDS, EvalSettings, PredictSettings
from mpt.run.settings import FinetuneSettings, Settings, dials
from tests.console import SMALL, command

TICKET = {  # option -> a value with which the ticket differs from that of the same search without it
    "prune": "0.7",
    "width": "0.2",
    "binary_activations": "true",
    "spline_t": "3 binary_activations=true",
    "learn_batchnorm": "true model=vgg_small data.image_size=32 width=0.05",
    "epochs": "2",
    "batch": "16",
    "label_smoothing": "0.3",
    "seed": "1",
    "dense": "[classifier.4]",
    "select": "best_val data.val_size=0.2",
    "data.image_size": "12",
    "data.val_size": "0.2",
    "data.train_size": "64",
    "data.crop": "2",
    "data.flip": "true",
    "data.mean": "[0.1,0.1,0.1]",
    "data.std": "[0.1,0.1,0.1]",
    "data.augment": "augmix data.workers=0",
    "data.noise_std": "0.2",
    "data.noise_probability": "0.5 data.noise_std=0.2",
    "data.num_classes": "5",
    "data.num_images": "200",
    "data.channels": "1",
    "optim._target_": "torch.optim.RMSprop optim.lr=0.01",
    "optim.arguments": "{dampening:0.5}",
    "optim.lr": "0.5",
    "optim.momentum": "0.1",
    "optim.nesterov": "true",
    "optim.weight_decay": "0.1",
    "optim.decay_scores": "false optim.weight_decay=0.1",
    "optim.schedule": "constant epochs=2",
    "optim.warmup": "1 epochs=2",
    "optim.milestones": "[1] optim.schedule=multi_step epochs=2",
    "optim.gamma": "0.5 optim.schedule=multi_step optim.milestones=[1] epochs=2",
    "optim.clip_grad_norm": "0.001",
    "optim.averaging": "ema",
    "optim.averaging_decay": "0.5 optim.averaging=ema",
    "optim.averaging_start": "1 optim.averaging=swa epochs=2",
    "trainer.limit_batches": "2",
    "protocol": "paper",
}
WITHOUT = (
    {  # the same command, except the option that is tried: what its ticket must differ from
        key: " ".join(text.split()[1:]) for key, text in TICKET.items()
    }
    | {"optim.milestones": "optim.milestones=[5] optim.schedule=multi_step epochs=2"}
)
REFUSED = {  # option -> a value that is refused here, with the words of the sentence
    "distill_weight": ("0.5", "only with distill"),
    "distill_temperature": ("2", "only with distill"),
    "data.name": ("nope", "data.name must be"),
    "data.root": ("x", "data that are read from files"),
    "data.download": ("false", "data that can be downloaded"),
    "data.cache": ("x", "data=image_folder"),
    "data.resized_crop": ("true", "data=image_folder"),
    "data.stream": ("true", "data=image_folder"),
    "data.test_size": ("0.2", "data=image_folder"),
    "data.workers": ("-1", "data.workers must be"),
    "optim.name": ("nope", "optim.name must be"),
    "optim.decay_batchnorm": ("false optim.weight_decay=0", "optim.weight_decay"),
    "optim.accumulate": ("3", "divisible by optim.accumulate"),
    "trainer.accelerator": ("gpux", "trainer.accelerator must be"),
    "trainer.devices": ("0", "trainer.devices must be"),
    "trainer.num_nodes": ("0", "trainer.num_nodes must be"),
    "trainer.strategy": ("nope", "trainer.strategy must be"),
    "trainer.precision": ("16", "trainer.precision must be"),
    "trainer.channels_last": ("maybe", "true or false"),
    "trainer.sync_batchnorm": ("maybe", "true or false"),
    "trainer.progress": ("maybe", "true or false"),
    "logger.name": ("wandb", "write logger=wandb"),
    **{f"logger.{name}": ("x", "logger=wandb") for name in ("project", "entity", "group")},
    "logger.tags": ("[x]", "logger=wandb"),
    "logger.mode": ("online", "logger=wandb"),
    "recipe": ("nope", "recipe has no choice"),
    "budget": ("mini", "sweeps="),
    "model": ("nope", "model has no choice"),
    "method": ("nope", "method has no choice"),
}
ELSEWHERE = {  # option -> the test that shows its effect
    "distill": "experiment/test_teacher.py",
    "evaluate_every": "experiment/test_module.py",
    "report": "experiment/test_train.py",
    "runs": "run/test_name.py",
    "sweep": "experiment/test_loggers.py",
    "trained": "search/test_convert.py",
    "trainer.name": "experiment/test_trainer.py",
    "last_batch": "data/test_loader.py",
    "objective": "experiment/test_kinds.py",
    "optim.gain_lr": "experiment/test_optim.py",
    "trainer.graph": "experiment/test_recorded.py",
    "trainer.checkpoint_every": "experiment/test_checkpoint.py",
    "logger.wandb": "experiment/test_loggers.py",
    "logger.tensorboard": "experiment/test_loggers.py",
}
OF_A_SEARCH = {name for name, f in dials(Settings) if f.metadata["of"] != "input"}


def test_every_option_of_a_search_is_tried():
    assert all((Path(__file__).parent / file).is_file() for file in ELSEWHERE.values())
    tried = TICKET.keys() | REFUSED.keys() | ELSEWHERE.keys()
    assert OF_A_SEARCH - tried == set()
    assert tried - OF_A_SEARCH == set()


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """``digest(overrides)``: the digest of the ticket that a search of one epoch leaves; each is made once."""
    known = {}

    def search(overrides):
        if overrides not in known:
            folder = tmp_path_factory.mktemp("search")
            command("train", *SMALL, "epochs=1", "logger=local", *overrides.split(), "hydra.run.dir=run", cwd=folder)
            done = command("ticket", "info", "run/ticket.safetensors", cwd=folder).stdout
            known[overrides] = done.split()[-1]
        return known[overrides]

    return search


@pytest.mark.slow
@pytest.mark.parametrize("option", TICKET)
def test_an_option_changes_the_ticket(digest, option):
    assert digest(f"{option}={TICKET[option]}") != digest(WITHOUT[option])


@pytest.mark.slow
@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_cannot_be_honoured_is_refused(tmp_path, option):
    value, words = REFUSED[option]
    done = command("train", *SMALL, *f"{option}={value}".split(), "--dry-run", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "schema",
    [FinetuneSettings, EvalSettings, PredictSettings, *dict.fromkeys((TICKET_COMMANDS | THEORY_COMMANDS).values())],
)
def test_every_option_is_read_by_the_code(schema):
    from mpt.files import PACKAGE

    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name, f in dials(schema):
        if f.metadata["of"] != "input" and not name.startswith("data."):  # these are passed on as they are
            last = name.rpartition(".")[2]
            assert f".{last}" in code or f'"{last}"' in code, name


def test_a_result_holds_every_setting(tmp_path):
    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    config = json.loads((tmp_path / "run" / "result.json").read_text())["config"]
    assert {name.partition(".")[0] for name in OF_A_SEARCH} <= config.keys()
