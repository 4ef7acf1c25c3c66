"""Slips of the hand: each ends in one sentence of ours that says what to write, and never in the words of a library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.console import command

FOREIGN = re.compile(
    r"Traceback|OmegaConf|EOF|Error merging|Exception|usage: mpt-train \[|Hydra|mismatched|Ambiguous|viable|extraneous|"
    r"nterpolation|full_key|object_type|overrid|of type '|ListConfig|DictConfig|\(most recent|[^n]struct|weights_only"
)
TICKET = Path(__file__).parent / "ticket" / "files" / "biprop-0.1.0.safetensors"  # T in the slips
SMALL = "model=mlp data=synthetic data.image_size=4 data.num_images=64 batch=64 epochs=1"  # S in the slips
SLIPS = [  # the command line, and words that its sentence holds
    ("train prune=abc", "prune must be a number, got abc"),
    ("train prune=80%", "prune must be a number, got 80%: write the fraction"),
    ("train prune=0.8,0.9", "prune=0.8,0.9 holds several values", "mpt-train -m"),
    ("train prune=0,8", "several values"),
    ("train seed=0,1", "several values"),
    ("train seed=range(0,3)", "several values"),
    ("train -m seed=0,", "ends with a comma"),
    ("train prune=null", "prune needs a value"),
    ("train prune=", "write prune=VALUE"),
    ("train prune= 0.8", "write prune=VALUE, without spaces"),
    ("train prune = 0.8", "write prune=0.8, without spaces"),
    ("train prune:0.8", "write prune=0.8"),
    ("train prune==0.8", "cannot be read"),
    ("train =0.8", "name=value"),
    ("train --prune 0.8", "options have no dashes: write prune=0.8, not --prune 0.8"),
    ("train --prune=0.8", "write prune=0.8"),
    ("train -prune 0.8", "write prune=0.8"),
    ("train \u2013prune=0.8", "write prune=0.8"),
    ("train \u2014prune 0.8", "write prune=0.8"),
    ("train \u2212\u2212lr 0.1", "write optim.lr=0.1"),
    ("train --batch-size 64", "write batch=64"),
    ("train --learning-rate=0.1", "write optim.lr=0.1"),
    ("train --nope", "no flag --nope", "mpt-train --help"),
    ("train --print", "no flag --print", "--cfg job prints the configuration"),
    ("train --multi-run", "did you mean --multirun?"),
    ("train --cfg", "--cfg must be followed by job"),
    ("train --cfg nope", "--cfg must be followed by job"),
    ("train --config-dir nowhere", "there is no such folder"),
    ("train --config-name nope", "no file nope.yaml"),
    ("train recipe", "recipe has no value"),
    ("train recipe=nope", "recipe has no choice 'nope'", "demo"),
    ("train foo", "foo has no equals sign"),
    ("train resnet18", "model=cifar_resnet18", "model=torchvision model.name=resnet18"),
    ("train conv4", "write model=conv4"),
    ("train fig2", "write sweeps=fig2"),
    ("train ticket.safetensors", "mpt-finetune"),
    ("train model=resnet18", "did you mean cifar_resnet18?", "model=torchvision model.name=NAME"),
    ("train model=[conv2,conv4]", "model takes one choice", "-m model=conv2,conv4"),
    ("train -m prune=interval(0.1,0.9)", "a range for hydra/sweeper=optuna: list the values, as in prune=0.5,0.8"),
    ("train -m prune=glob(*)", "stands for no value: a glob names choices, as in model=glob(conv*)"),
    ("train model=1", "model takes the name of a choice"),
    ("train +model=conv2", "write model=conv2, without +"),
    ("train ~model", "would remove an option"),
    ("train model.width=2", "write width=2"),
    ("train method.prune=0.8", "write prune=0.8"),
    ("train data=CIFAR10", "did you mean cifar10?"),
    ("train data=cifar-10", "did you mean cifar10?"),
    ("train optim=rmsprop", "optim has no choice 'rmsprop'"),
    ("train data.name=nope", "data.name must be"),
    ("train data.name=digits", "write data=digits"),
    ("train model.name=mine", "write model=mine"),
    ("train method.name=edge_popup", "write method=edge_popup"),
    ("train trainer.name=gpu", "write trainer=gpu"),
    ("train +foo=1", "no option foo"),
    ("train ++prun=1", "did you mean prune?"),
    ("train foo.bar=1", "no option foo.bar"),
    ("train lr=0.1", "write optim.lr=0.1"),
    ("train optimizer.lr=0.1", "write optim.lr=0.1"),
    ("train trainer.lr=0.1", "write optim.lr=0.1"),
    ("train learning_rate=0.1", "write optim.lr=0.1"),
    ("train sparsity=0.8", "write prune=0.8"),
    ("train density=0.2", "1 - density"),
    ("train batch_size=64", "write batch=64"),
    ("train gpus=2", "write trainer.devices=2"),
    ("train cuda=true", "write trainer.accelerator=gpu"),
    ("train resume=last", "repeat its command"),
    ("train arch=conv4", "write model=conv4"),
    ("train dataset=cifar10", "write data=cifar10"),
    ("train data_dir=x", "write data.root=x"),
    ("train wd=1e-4", "write optim.weight_decay=1e-4"),
    ("train momentum=0.9", "write optim.momentum=0.9"),
    ("train workers=4", "write data.workers=4"),
    ("train output_dir=x", "write hydra.run.dir=x"),
    ("train name=x", "write hydra.run.dir=x"),
    ("train max_epochs=3", "write epochs=3"),
    ("train Epochs=3", "write epochs=3"),
    ("train wandb=true", "write logger=wandb"),
    ("train score_grad=gain", "write method.score_grad=gain"),
    ("train width=inf", "above 0 and finite"),
    ("train width=-1", "above 0"),
    ("train epochs=1e3", "whole number"),
    ("train epochs=0", "at least 1"),
    ("train epochs=99999999999999999999", "epochs must be below 2^63"),
    ("train model.target=os.nope", "model.target=os.nope cannot be imported"),
    ("train optim._target_=torch.optim.Nope", "optim._target_=torch.optim.Nope cannot be imported"),
    ("train optim.arguments={nope:1}", "sgd cannot be built with"),
    ("train model=conv2 model.hiden=3", "no option model.hiden"),
    ("train model=torchvision model.name=resnet18 width=2", "width is a channel multiplier"),
    ("train seed=-1", "from 0"),
    ("train learn_batchnorm=maybe", "true or false"),
    ("train dense=fc", "as in dense=[fc]"),
    ("train dense=[[fc]]", "dense is a list of single values"),
    ("train trained=[{a:1}]", "trained is a list of single values"),
    ("train dense=[null]", "entries may not be null"),
    ("train optim.milestones=[1,null]", "entries may not be null"),
    ("train data.mean=[a,0.5,0.5]", "each entry of data.mean must be a number, got a"),
    ("train dense=[$(x)]", "the character '('"),
    ("train logger=[[wandb]]", "as in logger=[wandb,tensorboard]"),
    ("train logger=[null]", "as in logger=[wandb,tensorboard]"),
    ("train S model.hidden=[[3]]", "hidden lists the features of each hidden layer"),
    ("train S model.hidden=3", "hidden lists the features of each hidden layer"),
    ("train S model.hidden=[10000000,10000000]", "model.hidden=[10000000, 10000000]", "lower model.hidden"),
    ("train model.target=builtins.dict", "does not say which arguments it takes"),
    ("train optim.lr=1e39", "optim.lr must be below 1e30"),
    ("train optim.weight_decay=-1e39", "0 or more"),
    ("train trainer.strategy=fsdp", "trainer.strategy must be auto, ddp or"),
    ("train --dry-run=yes", "write --dry-run"),
    ("train --multirun=1 seed=0,1", "write --multirun"),
    ("train --cfg=nope", "--cfg must be followed by job"),
    ("train hydra/launcher=joblib", "hydra/launcher has an effect only on a sweep: add -m"),
    ("train hydra.sweep.dir=x", "hydra.sweep.dir has an effect only on a sweep"),
    ("train -m hydra.run.dir=x seed=0,1", "write runs=FOLDER"),
    ("train -m seed=range(0,3,0)", "seed=range(0,3,0) lists no values"),
    ("train -m seed=range(0,1000000000)", "a sweep of more than 10,000 runs"),
    ("train -m seed=range(0,200) prune=range(0,0.9,0.01)", "a sweep of more than 10,000 runs"),
    ("train -m hydra/launcher=joblib hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs must be -1"),
    ("train -m hydra/sweeper=optuna seed=1", "as in 'prune=interval(0.3,0.9)'"),
    ("train -m hydra/sweeper=optuna prune=interval(0.9,0.3)", "write its lower end first"),
    ("train -m hydra/sweeper=optuna prune=interval(0.3,0.9) hydra.sweeper.n_trials=0", "must be at least 1, got 0"),
    ("train optim.milestones=3", "as in optim.milestones=[3]"),
    ("train data.mean=[0.5", "a bracket is not closed"),
    ('train data.mean="a', "a quote is not closed"),
    ("train prune=0·8", "the character '·'"),
    ("train prune=nofun(1)", "cannot be read"),
    ("train prune=${nope}", "refers to ${nope}"),
    ("train prune=${oc.env:NOPE}", "environment variable NOPE"),
    ("train hydra.job.chdir=true", "has no effect"),
    ("train hydra.nope=1", "no option hydra.nope"),
    ("train hydra.mode=nope", "hydra.mode must be one of RUN, MULTIRUN, got nope"),
    ("train model=nan", "model takes the name of a choice, got nan"),
    ("train method=-inf", "method takes the name of a choice"),
    ("train recipe=1", "recipe takes the name of a choice, got 1"),
    ("train sweeps=null", "sweeps takes the name of a choice, got null"),
    ("train -m prune=range(0.5,0.1) data=digits", "stands for no value: write prune=0,1,2"),
    ("train -sc install=bash", "mpt completion bash prints"),
    ("train --shell-completion", "mpt completion bash prints"),
    ("train model=../data/digits", "the file of the chosen model has no target: add one"),
    ("train train", "train has no equals sign: did you mean trainer? options are written name=value"),
    ("eval T T", "name one ticket file, got 2: write mpt-eval TICKET"),
    ("status a b", "write mpt-status DIR"),
    ("train --experimental-rerun x", "no flag --experimental-rerun"),
    ("train logger=[local,nope]", "logger has no choice 'nope'"),
    ("train hydra/launcher=nope", "hydra/launcher has no choice 'nope'"),
    ("train trainer.devices=0", "trainer.devices must be"),
    ("train trainer.accelerator=nope", "trainer.accelerator must be"),
    ("train budget=mini", "sweeps="),
    ("train sweeps=fig9", "sweeps has no choice 'fig9'"),
    ("train S batch=65", "batch is the number of images per step and must be at most 64", "got 65"),
    ("train S batch=65 --dry-run", "must be at most 64"),
    ("train S method=dense method.power=2", "no option method.power in the chosen method: leave it out"),
    ("train S trained=[nope]", "trained names 'nope', and the network has nothing that it could name: leave it out"),
    ("train S objective=nope", "objective=nope is no number of the result: take one of test_acc"),
    ("train S objective=val_acc", "objective=val_acc is no number of the result"),
    ("train S optim.arguments={lr:1}", "write optim.lr="),
    ("train S optim.arguments={params:1}", "leave it out"),
    ("train S optim._target_=torch.optim.SparseAdam", "a step of this _target_ fails"),
    ("train S optim._target_=torch.optim.SparseAdam --dry-run", "a step of this _target_ fails"),
    ("train S trainer.accelerator=tpu", "trainer.accelerator=tpu is not on this machine"),
    ("train S trainer.accelerator=cpu trainer.precision=16-mixed", "trainer.precision=16-mixed needs a GPU"),
    ("train S trainer.num_nodes=2", "start them with srun or torchrun, or set NODE_RANK, MASTER_ADDR and MASTER_PORT"),
    ("train S hydra.searchpath=[file://nowhere]", "hydra.searchpath names nowhere: there is no such folder"),
    ("train S hydra.searchpath=[pkg://nope.conf]", "hydra.searchpath names nope: there is no such package"),
    ("train S +hydra.x=1", "there is no option hydra.x"),
    ("train S ++hydra.run.x=1", "there is no option hydra.run.x"),
    ("train S --config-path /etc", "name your folder with --config-dir"),
    ("train S -cp conf", "name your folder with --config-dir"),
    ("train S --resolve", "--resolve has an effect only with --cfg job"),
    ("finetune", "one ticket file"),
    ("finetune T data=digits optim._target_=torch.optim.SparseAdam", "a step of this _target_ fails"),
    ("finetune T layer=last", "did you mean layers? --help lists them"),
    ("finetune T --layers last", "write layers=last"),
    ("finetune T lr=1", "write optim.lr=1"),
    ("finetune T data=digits epochs=x", "whole number"),
    ("eval", "one ticket file"),
    ("eval nowhere.safetensors", "no ticket at nowhere.safetensors"),
    ("eval hf://user/name", "a command takes a ticket from a file"),
    ("eval T data=digits batch=x", "whole number"),
    ("eval T batch_size=5", "write batch=5"),
    ("eval T --control shuffled_mask", "write control=shuffled_mask"),
    ("eval T dataset=digits", "write data=digits"),
    ("eval T prune=0.5", "no option prune"),
    ("eval T data=digits control=[a", "a bracket is not closed"),
    ("eval T data=digits engine=fast", "engine must be"),
    ("eval T data=digits control=shuffled_mask,random_mask", "holds several values: give one"),
    ("eval T --config-dir=nowhere", "write --config-dir nowhere"),
    ("ticket report T speed=false json=/dev/full", "/dev/full: No space left on device"),
    ("finetune ticket=", "name one ticket file, got none"),
    ("predict T", "picture"),
    ("predict T x.png topk=3", "write top=3"),
    ("predict T x.png top=3 json=true", "top is of the table, and json=true prints all there is instead"),
    ("eval T data=digits per_class=true json=True", "per_class is of the table"),
    ("ticket", "info|report|draw|bench|import|pack|unpack"),
    ("ticket show T", "info|report|draw|bench|import|pack|unpack", "got show"),
    ("ticket info T json=true", "no option json"),
    ("ticket bench T threads=100000", "threads must be at most"),
    ("ticket report T bins=0", "bins must be from 1 to 10000"),
    ("ticket report T --bins 5", "write bins=5"),
    ("ticket report T bins=5", "the scores in checkpoint="),
    ("ticket import T model=nope", "model has no choice 'nope'"),
    ("ticket pack T output=x", "write out=x"),
    ("status", "name one folder"),
    ("status nowhere", "nowhere"),
    ("status runs --json", "mpt-status takes no options, got --json"),
    ("status runs json=true", "mpt-status takes no options, got json=true"),
    ("wandb sync", "mpt-wandb sync DIR"),
    ("dashboard fig9", "fig2"),
    ("dashboard", "mpt-dashboard SWEEP"),
    ("dashboard fig2 entity=", "mpt-dashboard SWEEP"),
    ("results", "DIR"),
    ("results nowhere", "nowhere"),
    ("plot . --figure nope", "nope"),
    ("plot . --figure table1-99999999999", "there is no table"),
    ("plot . --figure table1 --style paper", "--style is of figures, and table1 is a table"),
    ("plot . --figure table1 --title=", "--title is of figures"),
    ("plot . --figure fig5 --dpi 99 -o x.pdf", "--dpi is of pictures of dots"),
    ("results --rows=runs ", "DIR"),
    ("plot . --fig fig2", "--fig"),
    ("verdicts . --claim C99", "no claim C99"),
    ("verdicts . --claim=", "no claim ''"),
    ("theory figure csv=nowhere/x.csv", "there is no folder nowhere for csv=nowhere/x.csv: create it first"),
    ("theory bounds T error=0", "error must be above 0"),
    ("theory nope", "bounds|construct|figure, got nope"),
    ("report nowhere", "there is no folder nowhere"),
    ("report . out=x.pdf", "out= must end in .html or .htm here, got 'x.pdf'"),
    ("report . watch=true out=x.html", "no effect with watch=true"),
    ("ticket export T out=x.pb", "must end in .onnx"),
    ("ticket compile T out=x.so", "must end in .o or .obj"),
    ("ticket draw T out=x.pdf", "must end in .svg"),
    ("eval T --dry-run", "there is no flag --dry-run: mpt-eval --help"),
    ("ticket info T --cfg job", "there is no flag --cfg: mpt-ticket info --help"),
    ("eval T data=digits data.flip=true", "data.flip changes images in training"),
    ("eval T data=digits data.train_size=10", "looks at test images alone"),
    ("theory bounds T num_classes=3", "num_classes belongs to a network that model= names"),
    ("theory bounds T in_channels=1", "in_channels belongs to a network that model= names"),
    ("theory figure csv=/", "csv=/ is a folder"),
    ("train trainer.strategy=ddp_spawn", "trainer.strategy must be auto, ddp or"),
    ("report . port=8080", "port=8080 has an effect only with watch=true"),
]


@pytest.mark.slow
@pytest.mark.parametrize("slip", SLIPS, ids=[slip[0] for slip in SLIPS])
def test_a_slip_is_answered_in_one_sentence_of_ours(tmp_path, slip):
    line, *words = slip
    name, *arguments = line.replace(" S", f" {SMALL}").split()
    arguments = [str(TICKET) if argument == "T" else argument for argument in arguments]
    done = command(name, *arguments, cwd=tmp_path, check=False)
    assert done.returncode not in (0, None)
    sentences = done.stderr.strip().splitlines()
    assert len(sentences) == 1, done.stderr
    assert sentences[0].startswith(f"mpt-{name}: ")
    assert not FOREIGN.search(done.stdout + done.stderr), done.stderr
    for word in words:
        assert word in sentences[0]
    assert not list(tmp_path.iterdir())


ODD_FILES = {
    "itself": (b"name: &a [*a]\n", "a configuration file or an option is nested too deep, or holds itself"),
    "deep": (b"name: " + b"[" * 2000 + b"]" * 2000, "a configuration file or an option is nested too deep, or holds "),
    "list": (b"- name\n", "model/odd.yaml is a list: write names and values"),
    "bytes": (b"name: \xff\n", "model/odd.yaml is not UTF-8: save it as UTF-8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_FILES)
def test_an_odd_file_of_configuration_is_refused_in_one_sentence(tmp_path, name):
    content, words = ODD_FILES[name]
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "odd.yaml").write_bytes(content)
    done = command("train", "--config-dir", "mine", "model=odd", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("mpt-train: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_there_are_sixty_slips_of_most_commands():
    assert len(SLIPS) >= 60
    assert len({slip[0].split()[0] for slip in SLIPS}) >= 8


@pytest.mark.parametrize("name", ["train", "eval", "predict", "finetune", "ticket", "status", "results", "plot"])
def test_every_command_has_our_version(tmp_path, name):
    import mpt

    assert command(name, "--version", cwd=tmp_path).stdout == f"mpt-{name} {mpt.__version__}\n"
