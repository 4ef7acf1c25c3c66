from __future__ import annotations

import json
import math
import signal
import time
from dataclasses import fields

import pytest
import yaml

import mpt
from mpt.analysis.details import load_rows
from mpt.analysis.plotting import plot
from mpt.experiment.module import TicketModule
from mpt.run import result as schema
from mpt.search.mask import flips
from mpt.words import count
from tests import reference
from tests.console import SMALL, command, fork, process, read_result
from tests.data.conftest import make_pictures

RESULT_KEYS = {
    "budget",
    "checksum",
    "commit",
    "config",
    "data",
    "density",
    "epoch",
    "epochs",
    "hardware",
    "images_per_second",
    "method",
    "model",
    "num_kept",
    "num_test",
    "num_train",
    "num_weights",
    "precision",
    "processes",
    "prune",
    "seconds",
    "seed",
    "status",
    "sweep",
    "test_acc",
    "test_acc_max",
    "test_acc_max_epoch",
    "ticket_bytes",
    "bits_per_weight",
    "file_bits_per_weight",
    "ticket_checksum",
    "train_acc",
    "versions",
    "width",
}
LAYERS = ("features.0", "features.2", "classifier.0", "classifier.2", "classifier.4")


CALIBRATED = ["prune=0.8", "method.selection=calibrated", "method.refresh=7"]
RAMPED = ["prune=0.8", "method.selection=global", "method.ramp=5"]


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_run_ends_with_its_six_files_and_a_true_result(run_here):
    row, directory = run_here("prune=0.8")
    files = {"config.yaml", "metrics.jsonl", "last.ckpt", "ticket.safetensors", "ticket.json", "result.json"}
    assert {path.name for path in directory.iterdir()} == files
    assert set(row) == RESULT_KEYS == {f.name for f in fields(schema.Result) if not f.metadata["optional"]}
    assert row == read_result(directory)
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    assert (row["num_weights"], row["num_kept"]) == (ticket.num_weights, ticket.num_kept)
    assert row["density"] == ticket.num_kept / ticket.num_weights
    assert row["ticket_bytes"] == (directory / "ticket.safetensors").stat().st_size
    assert row["test_acc"] > 0.5  # four classes
    assert row["test_acc_max"] == max(r["test/acc"] for r in rows(directory)) >= row["test_acc"]
    assert yaml.safe_load((directory / "config.yaml").read_text()) == row["config"]


def test_a_ticket_of_pictures_holds_no_path_of_its_author(run_here, tmp_path):
    make_pictures(tmp_path / "private", train=12, val=6, sides=(8, 9))
    places = (f"data.root={tmp_path / 'private'}", f"data.cache={tmp_path / 'cache'}", "data.workers=0")
    _, directory = run_here("data=image_folder", *places, "data.image_size=8", "batch=4", "epochs=1")
    header = mpt.Ticket.load(directory / "ticket.safetensors").header
    assert str(tmp_path) not in json.dumps(header)
    assert not {"root", "cache", "download", "workers", "stream"} & header["data"].keys()
    assert (header["data"]["name"], header["data"]["image_size"]) == ("image_folder", 8)


def test_two_runs_with_one_seed_give_identical_tickets_and_another_seed_does_not(run_here):
    for directory, seed in (("a", 0), ("b", 0), ("c", 1)):
        _, path = run_here(f"seed={seed}", "epochs=1", directory=directory)
    a, b, c = ((path.parent / d / "ticket.safetensors").read_bytes() for d in "abc")
    assert a == b != c


def test_other_settings_in_the_same_directory_are_refused_with_the_difference(run_here):
    _, directory = run_here("epochs=1")
    content = (directory / "ticket.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(optim\.lr is 0\.1 there and 0\.2 here\)"):
        run_here("epochs=1", "optim.lr=0.2")
    assert (directory / "ticket.safetensors").read_bytes() == content


@pytest.mark.slow
def test_a_checkpoint_without_its_configuration_is_refused(run_here):
    _, directory = run_here("epochs=1")
    (directory / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"of an unknown run, without its config.yaml"):
        run_here("epochs=1", "seed=5")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "null", "[]", "a: [", "prune: 0.5"])
def test_a_damaged_configuration_is_refused_in_one_sentence(run_here, content):
    _, directory = run_here("epochs=1")
    (directory / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config.yaml is damaged"):
        run_here("epochs=1")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "null", "[]", "{"])
def test_a_damaged_result_is_written_again(run_here, content):
    row, directory = run_here("epochs=1")
    (directory / "result.json").write_text(content)
    again, _ = run_here("epochs=1")
    assert again["test_acc"] == row["test_acc"]


@pytest.mark.slow
def test_a_finished_run_with_a_damaged_ticket_or_result_heals_from_its_checkpoint_or_is_refused(run_here, capsys):
    row, directory = run_here("epochs=1")
    ticket, result = directory / "ticket.safetensors", directory / "result.json"
    content = ticket.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for damage in (lambda: ticket.write_bytes(content[:-1]), lambda: ticket.write_bytes(flipped)):
        damage()
        again, _ = run_here("epochs=1")
        assert (
            "ticket.safetensors is not the file that result.json describes: it is made again" in capsys.readouterr().out
        )
        assert ticket.read_bytes() == content
        assert (again["test_acc"], again["ticket_checksum"]) == (row["test_acc"], row["ticket_checksum"])
    result.write_text(result.read_text().replace('"epochs": 1', '"epochs": 7', 1))
    assert run_here("epochs=1")[0]["epochs"] == 1
    (directory / "last.ckpt").unlink()
    ticket.write_bytes(flipped)
    with pytest.raises(
        ValueError, match=r"describes, and there is no last\.ckpt: remove the directory to run it again"
    ):
        run_here("epochs=1")
    assert ticket.read_bytes() == flipped


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(run_here, kept):
    _, directory = run_here("epochs=1")
    (directory / "result.json").unlink()
    (directory / "last.ckpt").write_bytes((directory / "last.ckpt").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged: remove it to start this run again"):
        run_here("epochs=1")


@pytest.mark.parametrize("method", ["edge_popup", "dense"])
def test_every_method_runs_to_a_ticket(run_here, method):
    result, directory = run_here(f"method={method}", *(["optim=adam", "optim.lr=0.01"] if method == "dense" else []))
    assert result["test_acc"] > 0.5
    assert result["method"] == method
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    assert ticket.density == pytest.approx(1.0 if method == "dense" else 0.5, abs=1e-3)


@pytest.mark.slow
def test_a_search_in_which_nothing_flips_says_so(run_here, capsys):
    run_here("epochs=1", "optim.lr=1e-30")
    foretold, seen = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert f"the mask of {len(LAYERS)} of {len(LAYERS)} searched layers may stay as drawn" in foretold
    assert "no weight entered or left the mask" in seen
    run_here("epochs=1", directory="other")
    assert "note" not in capsys.readouterr().out


@pytest.mark.slow
def test_layers_in_which_nothing_flips_are_named(run_here, capsys):
    run_here("epochs=1", "method.prune_layers={features.0: 0.0}")
    assert "no weight entered" not in capsys.readouterr().out  # of a layer that keeps all weights none can
    _, directory = run_here("epochs=1", "optim.lr=0.001", directory="other")
    [row] = rows(directory)
    unchanged = [layer for layer in LAYERS if row[f"ticket/flips/{layer}"] == 0]
    assert 0 < len(unchanged) < len(LAYERS)
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note      no weight"))
    assert said.endswith(f"in {count(len(unchanged), 'layer')} of {len(LAYERS)}: {', '.join(unchanged)}")


def test_a_search_that_diverges_fails_with_advice_in_its_result(run_here, tmp_path):
    with pytest.raises(ValueError, match=r"lower optim\.lr"):
        run_here("optim.lr=1e30", "method=dense")
    result = read_result(tmp_path / "run")
    assert result["status"] == "failed"
    assert "lower optim.lr" in result["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model=torchvision", "model.name=resnet18", "width=2"], "width is a channel multiplier, which resnet18"),
        (["model=conv8"], "image_size must be at least 16 for conv8"),
        (["model=torchvision", "model.name=inception_v3", "width=1"], "inception_v3 cannot take images of 8x8"),
        (["learn_batchnorm=true"], "this backbone has no batch-norm"),
        (["dense=[nope]"], "dense names 'nope', which is none of features.0"),
        (
            ["model=torchvision", "model.name=resnet18", "width=1", "data.num_images=33"],
            "batch=32 leaves 1 of 33 training images",
        ),
        (["prune=0.8", "method.selection=global"], "method.ramp=10 lets .* epochs must be at least 11, got 3"),
        (["prune=0.3", "method.ramp=500"], "method.ramp=500 has an effect only where prune is above 0.5"),
        (["method.power=0.5"], "power is the exponent of power-propagation and must be at least 1, got 0.5"),
        (["method.selection=threshold", "method.threshold=1"], r"threshold=1 keeps none of the .*'features\.0'"),
        (["method.prune_layers={fc.*:0.5}"], r"prune_layers names 'fc\.\*', which is none of features\.0"),
        (["prune=0.9999", "method.selection=calibrated"], "lower prune or raise width"),
        (["+model.nope=3"], r"there is no option model\.nope"),
        (["batch=30", "trainer.devices=4"], "must be divisible by 4 processes, got 30"),
    ],
)
def test_options_that_cannot_be_built_are_refused_before_anything_is_written(run_here, tmp_path, overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_here(*overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_global_pruning_ramps_and_only_later_epochs_count(run_here):
    result, directory = run_here("prune=0.8", "method.selection=global", "method.ramp=3", "epochs=5")
    written = rows(directory)
    kept = [1 - reference.prune_in_epoch(0.8, epoch, 3) for epoch in range(5)]
    assert [r["ticket/density"] for r in written] == pytest.approx(kept, abs=1e-4)
    best = max(written[3:], key=lambda r: r["test/acc"])
    assert (result["test_acc_max"], result["test_acc_max_epoch"]) == (best["test/acc"], best["epoch"])
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    assert ticket.num_kept == ticket.num_weights - math.floor(0.8 * ticket.num_weights + 0.5)
    assert len({round(r["kept"] / math.prod(r["shape"]), 2) for r in ticket.header["layers"]}) > 1
    assert ticket.header["method"]["selection"] == "global"


@pytest.mark.parametrize("overrides", [CALIBRATED, pytest.param([*RAMPED, "method.ramp=2"], marks=pytest.mark.slow)])
def test_a_run_interrupted_in_an_epoch_and_repeated_has_the_same_masks_and_rows(run_here, monkeypatch, overrides):
    _, whole = run_here(*overrides, "epochs=4", directory="whole")

    def broken(module, batch, batch_idx, step=TicketModule.training_step):
        if module.current_epoch == 2 and batch_idx == 5:
            raise RuntimeError("interrupted")
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(TicketModule, "training_step", broken)
        with pytest.raises(RuntimeError, match="interrupted"):
            run_here(*overrides, "epochs=4", directory="cut")
    _, cut = run_here(*overrides, "epochs=4", directory="cut")
    assert (cut / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    timeless = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(directory)]
        for directory in (cut, whole)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
def test_a_threshold_finds_its_own_density_and_a_calibrated_one_follows_prune(run_here):
    result, directory = run_here("prune=0.5", "method.selection=threshold", "method.threshold=0.08")
    last = rows(directory)[-1]
    assert result["density"] == pytest.approx(last["ticket/density"])
    assert 0.1 < result["density"] < 0.45
    result, directory = run_here("prune=0.8", *CALIBRATED, directory="calibrated")
    assert all(r["ticket/density"] == pytest.approx(0.2, abs=0.005) for r in rows(directory))
    assert result["density"] == pytest.approx(0.2, abs=0.005)
    assert result["test_acc"] == pytest.approx(rows(directory)[-1]["test/acc"], abs=1e-6)


def test_a_threshold_that_empties_a_layer_in_training_fails_with_one_sentence(run_here, tmp_path):
    with pytest.raises(ValueError, match=r"threshold=0\.05 keeps none of the .* weights of layer 'features\.0'"):
        run_here("method.selection=threshold", "method.threshold=0.05", "optim.weight_decay=9", "data.num_images=3200")
    assert "threshold=0.05 keeps none" in read_result(tmp_path / "run")["error"]


@pytest.mark.slow
def test_a_backbone_is_added_by_one_yaml(tmp_path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "thin.yaml").write_text(
        "name: thin\ntarget: torchvision.models.shufflenet_v2_x0_5\n"
    )
    overrides = [o for o in SMALL if not o.startswith(("model", "width"))]
    overrides = [o for o in overrides if "num_images" not in o] + ["data.num_images=64", "model=thin", "epochs=1"]
    command("train", "--config-dir", "conf", *overrides, "hydra.run.dir=run", cwd=tmp_path)
    assert read_result(tmp_path / "run")["model"] == "thin"
    shown = command("eval", "run/ticket.safetensors", cwd=tmp_path, check=False)
    assert shown.returncode == 1
    assert "or to mpt-eval as model=<its YAML>" in shown.stderr
    shown = command("eval", "--config-dir", "conf", "run/ticket.safetensors", "model=thin", cwd=tmp_path)
    assert f"accuracy  {100 * read_result(tmp_path / 'run')['test_acc']:.2f} %" in shown.stdout


def killed(directory, *overrides, epochs):
    """Start a search in ``directory`` and kill it after ``epochs`` are in its checkpoint."""
    arguments = [*SMALL, "epochs=30", *overrides, f"hydra.run.dir={directory}"]
    process = fork("train", *arguments, cwd=directory.parent, out=directory.parent / "log")
    metrics, end = directory / "metrics.jsonl", time.monotonic() + 150
    while time.monotonic() < end and process.poll() is None:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= epochs:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "overrides"), [(1, []), (3, []), (3, CALIBRATED)])
def test_a_run_killed_in_any_epoch_and_repeated_gives_the_ticket_of_an_uninterrupted_one(tmp_path, epochs, overrides):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command("train", *SMALL, "epochs=30", *overrides, f"hydra.run.dir={whole}", cwd=tmp_path)
    assert killed(cut, *overrides, epochs=epochs) == -signal.SIGKILL
    assert not (cut / "result.json").exists()
    command("train", *SMALL, "epochs=30", *overrides, f"hydra.run.dir={cut}", cwd=tmp_path)
    assert (cut / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    timeless = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(cut)]
    assert timeless == [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(whole)
    ]
    assert read_result(cut)["test_acc_max"] == read_result(whole)["test_acc_max"]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], CALIBRATED, RAMPED])
def test_two_processes_find_the_masks_of_one(tmp_path, overrides):
    arguments = [*(o for o in SMALL if "devices" not in o), "data.num_images=319", "epochs=6", *overrides]
    one, two = tmp_path / "one", tmp_path / "two"
    command("train", *arguments, f"hydra.run.dir={one}", "trainer.devices=1", cwd=tmp_path)
    process("train", *arguments, f"hydra.run.dir={two}", "trainer.devices=2", cwd=tmp_path)
    tickets = [mpt.Ticket.load(d / "ticket.safetensors") for d in (one, two)]
    masks = [[ticket.mask(name) for name in LAYERS] for ticket in tickets]
    assert flips(*masks) <= 0.001
    assert read_result(two)["processes"] == 2
    assert rows(two)[-1]["train/acc"] == pytest.approx(rows(one)[-1]["train/acc"], abs=0.01)
    assert rows(two)[-1]["test/acc"] == pytest.approx(read_result(two)["test_acc"], abs=1e-6)  # each image once


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv2", "vgg_small"])
def test_a_run_with_binary_activations_writes_them_to_the_file_that_is_measured(run_here, model):
    result, directory = run_here(f"model={model}", "binary_activations=true", "epochs=1", "width=0.0625", "spline_t=2")
    ticket = mpt.Ticket.load(directory / "ticket.safetensors")
    assert result["config"]["binary_activations"]
    assert {m.t for m in ticket.network().modules() if isinstance(m, mpt.BinaryActivation)} == {2.0}
    evaluated = command("eval", str(directory / "ticket.safetensors"), f"model={model}", "width=0.0625", cwd=directory)
    assert f"{100 * result['test_acc']:.2f} %" in evaluated.stdout


@pytest.mark.slow
def test_a_run_writes_the_same_report_as_mpt_ticket_report(tmp_path):
    command("train", *SMALL, "report=true", "hydra.run.dir=run", cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    options = ("checkpoint=run/last.ckpt", "json=true", "speed=false")  # a run times nothing
    again = command("ticket", "report", "run/ticket.safetensors", *options, cwd=tmp_path)
    assert {**json.loads(again.stdout), "ticket": report["ticket"]} == report
    assert all(sum(layer["scores"]["counts"]) > 0 for layer in report["layers"])
    for figure in ("scores", "zero_kernels", "acceleration"):  # what they are drawn from is what a run writes
        assert plot(tmp_path, figure=figure).axes
    shares = load_rows(tmp_path, "scores").groupby("layer")["share"].sum()
    assert shares.to_dict() == {layer["name"]: pytest.approx(1) for layer in report["layers"]}


@pytest.mark.slow
def test_a_dense_baseline_has_no_report_and_a_run_only_on_request(tmp_path):
    command("train", *SMALL, "report=true", "method=dense", "epochs=1", "hydra.run.dir=dense", cwd=tmp_path)
    command("train", *SMALL, "epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert not list(tmp_path.glob("*/report.json"))
