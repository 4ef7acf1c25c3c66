"""README and docs hold what they promise: their code runs from an empty directory, and what they name is there.

Every fenced block of a document runs in order in one directory, as a reader would run it. A comment before a block says
what is special about it:

    <!-- file: PATH -->      the block is the content of this file
    <!-- slow: REASON -->    run by the slow tests (as processes of their own where the reason says so); the quick ones
                             compose its commands
    <!-- needs: WHAT -->     it needs what is not here: the commands are composed, others must miss what they name
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
from docs import make

from mpt import Ticket
from tests import console
from tests.test_structure import ALLOWED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mpt"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [*ROOT.glob("C*.md"), ROOT / "SECURITY.md", *(ROOT / "results").rglob("*.md")]
QUICK = [ROOT / "README.md"]  # of the others the slow tests run every block
README, CONTRIBUTING = ((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"(?m)^([a-z-]+):.*##", MAKEFILE))
LANGUAGES = ("sh", "python", "yaml", "c", "text")
OTHER_COMMANDS = ("wandb", "tensorboard")  # of packages that ours needs: that they are there is looked for
CHECKED = ("git", "cd", "make", "pip", "source")  # what they name is looked for, they do not run


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language and text, and the comment before it (``slow``, its reason)."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def commands(self):
        """Words of each command of a shell block."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for at in [i for i, word in enumerate(words) if word == "&&"][::-1]:
                yield words[:at]
                words = words[at + 1 :]
            if words:
                yield words


FENCE = re.compile(r"(?ms)(?:^<!-- (file|slow|needs): ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$")


def blocks(page):
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start(3)) + 1, found[3], found[4], found[1] or "", found[2] or "")
        for found in FENCE.finditer(text)
    ]


class Reader:
    """Somebody who follows a page in ``folder``: variables, files and modules of one's own stay from block to block."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.variables = folder, {}

    def follow(self, block: Block) -> None:
        if block.mark == "file":
            path = self.folder / block.reason
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            self.run_python(block)
        elif block.language == "sh":
            for words in block.commands():
                self.run(words, apart=block.mark == "slow" and "process" in block.reason)

    def run_python(self, block: Block) -> None:
        with self.importing(str(self.folder)), contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})

    def run(self, words: list[str], *, apart: bool) -> None:
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.variables[name] = value
        elif words[0] in CHECKED:
            self.check(words)
        elif words[0].startswith("mpt-") and not apart:
            path = self.variables.get("PYTHONPATH")
            with self.importing(*([str(self.folder / path)] if path else [])):
                console.command(words[0].removeprefix("mpt-"), *words[1:], cwd=self.folder, environment=self.variables)
        elif words[0] == "cc" and not shutil.which("cc"):
            pytest.skip("the rest of the page needs a C compiler")
        else:
            environment = os.environ | self.variables | {"PATH": f"{console.COMMANDS}:{os.environ['PATH']}"}
            done = subprocess.run(
                words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=250
            )
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"

    def check(self, words: list[str]) -> None:
        """A command that installs or enters the checkout names what is there; ``make demo`` runs what it says."""
        check_named(words)
        if words[:2] == ["make", "demo"]:
            recipe = re.search(r"(?m)^demo:.*\n((?:\t.*\n)+)", MAKEFILE)[1]
            for command in re.findall(r"\$\(BIN\)/(mpt-.*)", recipe):
                self.run(shlex.split(command), apart=False)

    @contextlib.contextmanager
    def importing(self, *paths: str):
        """``paths`` first where Python looks for modules; what was imported from there is forgotten afterwards."""
        with mock.patch.object(sys, "path", [*paths, *sys.path]):
            try:
                yield
            finally:
                for name, module in list(sys.modules.items()):
                    if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                        del sys.modules[name]


def check_named(words):
    """A checkout, a target of make, an extra of pip, a file of the environment: each is there under this name."""
    match words:
        case ["git", "clone", url]:
            assert url == PROJECT["urls"]["Repository"]
        case ["cd", folder]:
            assert folder == PROJECT["urls"]["Repository"].rpartition("/")[2]
        case ["make", target, *_]:
            assert target in TARGETS
        case ["pip", "install", name]:
            extras = re.fullmatch(rf"(?:\.|{PROJECT['name']})(?:\[([\w,]+)\])?", name)
            assert extras, name
            assert set(filter(None, (extras[1] or "").split(","))) <= set(PROJECT["optional-dependencies"])
        case ["source", file]:
            assert file == re.search(r"(?m)^BIN := (.*)$", MAKEFILE)[1] + "/activate"
        case _:
            raise AssertionError(words)


def compose(words):
    """The configuration that ``mpt-train`` with these words would run, of each axis the first value."""
    without = {"-m", "--help", "--dry-run", "--cfg", "job"}
    console.compose(*(word if set("[{") & set(word) else word.split(",")[0] for word in words if word not in without))


def check_without_running(block, folder):
    for words in block.commands() if block.language == "sh" else ():
        if words[0] in CHECKED:
            check_named(words)
        elif words[0] == "mpt-train":
            compose(words[1:])
        elif words[0] in OTHER_COMMANDS:
            named = itertools.takewhile(str.isalpha, words[1:])
            helped = subprocess.run([console.COMMANDS / words[0], *named, "--help"], capture_output=True, check=False)
            assert helped.returncode == 0, words
        elif block.mark == "needs" and words[0] != "mpt-status":
            done = console.command(words[0].removeprefix("mpt-"), *words[1:], cwd=folder, check=False)
            named = [word.partition("=")[2] or word for word in words[1:]]
            assert done.returncode == 1
            assert any(name in done.stderr for name in named), done.stderr
        else:
            assert words[0] in PROJECT["scripts"] or words[0] == "export"
    if block.language == "python":
        compile(block.text, str(block), "exec")


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # matplotlib's list of fonts takes long to make
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "empty").mkdir()
    return Reader(tmp_path / "empty")


@pytest.mark.parametrize("page", QUICK, ids=lambda page: page.stem)
def test_every_quick_block_of_the_first_page_runs_from_an_empty_directory(page, reader):
    for block in blocks(page):
        if block.mark in ("slow", "needs"):
            check_without_running(block, reader.folder)
        else:
            reader.follow(replace(block, text=block.text.replace("] * 10:", "]:")))
    assert README.count("train=True)] * 10:\n") == 1  # ten epochs, which the slow test searches for


@pytest.mark.parametrize("page", [page for page in PAGES if page not in QUICK], ids=lambda page: page.stem)
def test_blocks_of_the_other_pages_that_need_what_is_not_here_compose_or_say_what_is_missing(page, tmp_path):
    for block in blocks(page):
        if block.mark == "needs":
            check_without_running(block, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_from_an_empty_directory(page, reader):
    for block in blocks(page):
        if block.mark != "needs":
            reader.follow(block)
    if page.name == "README.md":
        check_numbers(Ticket.load(reader.folder / "runs" / "demo" / "ticket.safetensors"), reader.folder)


def check_numbers(ticket, folder):
    """The README's three numbers of ``make demo``; of one seed, the accuracy within what 3 seeds vary by."""
    acc, bits, size, dense = re.search(
        r"\| ([\d.]+) % \| ([\d.]+) \| (\d+) kB; float32 takes ([\d.]+) MB", README
    ).groups()
    row = console.read_result(folder / "runs" / "demo")
    assert abs(100 * row["test_acc"] - float(acc)) < 1.5
    assert f"{8 * row['ticket_bytes'] / ticket.num_weights:.2f}" == bits
    assert round(row["ticket_bytes"] / 1000) == int(size)
    assert f"{4 * ticket.num_weights / 1e6:.1f}" == dense


def test_every_block_says_its_language_and_none_needs_editing():
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) > 40
    assert sum(page.read_text().count("```") for page in PAGES) == 2 * len(found)
    for block in found:
        assert block.language in LANGUAGES, block
        assert (block.language in ("yaml", "c")) <= (block.mark == "file"), block
        if block.language == "sh":
            assert not re.search(r"\b[A-Z]{3,}\b", re.sub(r"PYTHONPATH|CIFAR-10-C|#.*", "", block.text)), block
        if block.mark == "file":  # the reader cannot see the comment
            before = block.page.read_text().splitlines()[: block.line - 2]
            assert f"`{block.reason}`" in " ".join(before[-4:]), block


INLINE = sorted(
    {
        found
        for page in [*PAGES, ROOT / "results/README.md"]
        for found in re.findall(r"`(mpt-train [^`]*)`", page.read_text())
    }
)


@pytest.mark.parametrize("command", INLINE)
def test_a_command_within_the_text_composes(command):
    words = shlex.split(command)[1:]
    if "--config-dir" not in words:  # a file of the reader's own, which a block of that page makes
        compose(words)


def test_what_the_text_says_of_make_and_pip_is_there():
    for page in [*PAGES, *OTHERS]:
        for found in re.findall(r"`((?:make|pip install) [^`]*)`", page.read_text()):
            check_named(shlex.split(found))


def test_nothing_installs_the_package_of_somebody_else():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    paths = listed.stdout.split() if listed.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.md")]
    texts = {path: (ROOT / path).read_text(errors="ignore") for path in paths if (ROOT / path).is_file()}
    old = re.compile(r"(?<![\w-])mpt" + r"\[[a-z]|pip install '?mpt\b|version\(\"mpt\"\)|dist/mpt")
    assert len(texts) > 20
    assert [path for path, text in texts.items() if path != "tests/test_documents.py" and old.search(text)] == []
    assert PROJECT["name"] == "multiprize"


def slug(heading):
    """The anchor that a forge gives a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, re.findall(r"(?m)^#+ (.*)$", target.read_text())), link


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    folders = "src|conf|tests|docs|benchmarks|results|notebooks|sweeps"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_its_first_60_lines_install_find_and_use_a_ticket():
    assert len(README.split()) <= 1000
    first = "\n".join(README.splitlines()[:60])
    assert "pip install ." in first
    assert "make demo" in first
    assert first.count("```") == 2 * len([*re.finditer("^```$", first, re.MULTILINE)])  # no block is cut
    uses = first.index("Ticket.load")
    assert first.index("Ticket.from_network") < uses
    assert "argmax" in first[uses:]


def test_the_readme_defines_its_words_before_it_uses_them():
    for word in ("P", "MPT-1/32", "MPT-1/1", "+BN"):
        assert f"*{word}*" in README, word
        assert not re.search(rf"(?<![\w/]){re.escape(word)}(?![\w/])", README.partition(f"*{word}*")[0]), word


def percent(path, **where):
    """Mean test accuracy over the runs of a committed table with these values, in percent with one digit."""
    rows = list(csv.DictReader((ROOT / path).read_text().splitlines()))
    accs = [float(row["test_acc"]) for row in rows if all(row[key] == value for key, value in where.items())]
    assert accs, where
    return f"{100 * sum(accs) / len(accs):.1f} %"


def spread(path, **where):
    """Mean, lowest and highest test accuracy of three runs of a committed table with these values, or - for none."""
    rows = list(csv.DictReader((ROOT / path).read_text().splitlines()))
    accs = [100 * float(row["test_acc"]) for row in rows if all(row[key] == value for key, value in where.items())]
    assert len(accs) in (0, 3), where
    return f"{sum(accs) / 3:.1f} ({min(accs):.1f} to {max(accs):.1f})" if accs else "-"


def cells(page, start):
    """The cells of the only row of a table of ``page`` that starts so, without bold."""
    (row,) = (line for line in (ROOT / page).read_text().splitlines() if line.startswith(f"| {start}"))
    return [cell.replace("*", "").strip() for cell in row.split("|")[2:-1]]


def test_the_table_of_fewer_epochs_is_the_committed_runs():
    places = [{"model": model, "prune": prune} for model in ("conv4", "conv6") for prune in ("0.5", "0.8", "0.9")]
    for line, epochs, gains in (("published", "20", "layer"), ("`fast", "5", "layer"), ("`best", "5", "learned")):
        rows = {"epochs": epochs, "method.gains": gains}
        expected = [spread("results/epochs/runs.csv", **place, **rows) for place in places]
        assert cells("results/epochs/README.md", line) == expected


@pytest.mark.parametrize(
    ("row", "model", "prune"),
    [
        ("Conv4, P = .5", "conv4", "0.5"),
        ("Conv4, P = .9", "conv4", "0.9"),
        ("Conv6, P = .5", "conv6", "0.5"),
        ("Conv6, P = .9", "conv6", "0.9"),
        ("ResNet-18, P = .8", "cifar_resnet18", "0.8"),
    ],
)
def test_the_table_of_precisions_is_the_committed_runs(row, model, prune):
    expected = [
        spread("results/precision/runs.csv", model=model, prune=prune, precision=precision)
        for precision in ("32-true", "bf16-mixed")
    ]
    assert cells("results/precision/README.md", row)[:2] == expected


RECIPES = {  # the first cell of a row of the page, the runs of that row before their seed, the columns of its numbers
    "`best_conv` (rate": ("A.base", "val_acc", "train_acc"),
    "`'optim.lr=${times_kept:0.4}'`": ("A.lr4", "val_acc", "train_acc"),
    "`'optim.lr=${times_kept:0.1}'`": ("A.lr1", "val_acc", "train_acc"),
    "`label_smoothing=0.1` in Conv4": ("A.ls", "val_acc", "train_acc"),
    "`optim.averaging=ema": ("A.ema", "val_acc", "train_acc"),
    "`optim.averaging=swa": ("A.swa", "val_acc", "train_acc"),
    "`optim.schedule=`cosine": ("A.restart", "val_acc", "train_acc"),
    "`distill=` a dense": ("A.ddense", "val_acc", "train_acc"),
    "`distill=` a ticket": ("A.dp5", "val_acc", "train_acc"),
    "both: ": ("A.lr1dp5", "val_acc", "train_acc"),
    "`best_conv` |": ("F.base", "test_acc"),
    "rate `.1 (1 - P)` |": ("F.lr1", "test_acc"),
    "a ticket at P = .5 as the teacher |": ("F.dp5", "test_acc"),
    "`fast_resnet18` (rate": ("R.base", "val_acc", "train_acc"),
    "`fast_resnet18 learn_batchnorm=true` |": ("R.bn", "val_acc", "train_acc"),
    "`fast_resnet18 learn_batchnorm=true optim.lr": ("R.bn_lr05", "val_acc", "train_acc"),
    "`fast_resnet18 learn_batchnorm=true optim.weight": ("R.bn_wd10", "val_acc", "train_acc"),
    "`fast_resnet18 learn_batchnorm=true distill": ("R.bn_dp5", "val_acc", "train_acc"),
    "`fast_resnet18 learn_batchnorm=true method": ("R.bnctl", "val_acc", "train_acc"),
    "`fast_resnet18 optim.lr=0.2`": ("R.lr2", "val_acc", "train_acc"),
    "`fast_resnet18 optim.lr=0.05`": ("R.lr05", "val_acc", "train_acc"),
    "`fast_resnet18 optim.lr=0.025`": ("R.lr025", "val_acc", "train_acc"),
    "`fast_resnet18 optim.weight": ("R.wd1", "val_acc", "train_acc"),
    "`fast_resnet18 label": ("R.ls", "val_acc", "train_acc"),
    "`fast_resnet18 optim.averaging=ema": ("R.ema", "val_acc", "train_acc"),
    "`fast_resnet18 optim.averaging=swa": ("R.swa", "val_acc", "train_acc"),
    "`fast_resnet18 distill": ("R.dp5", "val_acc", "train_acc"),
    "`fast_resnet18 method=signed": ("R.signed", "val_acc", "train_acc"),
    "`fast_resnet18 method.selection": ("R.global", "val_acc", "train_acc"),
    "`fast_resnet18 prune": ("R.p735", "val_acc", "train_acc"),
    "`fast_resnet18 epochs=12`": ("R.base12", "val_acc", "train_acc"),
    "`fast_resnet18 epochs=12 data": ("R.crop12", "val_acc", "train_acc"),
    "a quarter of the width, `fast_resnet18` |": ("F.rbase", "test_acc"),
    "a quarter of the width, `best_resnet18` |": ("F.rbn", "test_acc"),
    "full width, `best_resnet18` |": ("F.rfull_bn", "test_acc"),
}


@pytest.mark.parametrize("line", RECIPES)
def test_the_tables_of_recipes_are_the_committed_runs(line):
    name, *keys = RECIPES[line]
    rows = list(csv.DictReader((ROOT / "results/recipes/runs.csv").read_text().splitlines()))
    values = [[100 * float(row[key]) for row in rows if row["run"].rpartition(".")[0] == name] for key in keys]
    expected = [", ".join(f"{value:.1f}" for value in found) for found in values]
    if name.startswith("F."):
        (found,) = values
        bits = [f"{float(row['file_bits_per_weight']):.3f}".lstrip("0") for row in rows if row["run"].startswith(name)]
        expected = [f"{sum(found) / 3:.1f} ({min(found):.1f} to {max(found):.1f})", "3"]
        expected[1:1] = bits[:1] if name.startswith("F.r") else []
        assert len(found) == 3
    assert cells("results/recipes/README.md", line) == expected


def test_the_tables_of_methods_are_the_committed_runs():
    gains = {"biprop": "layer", "a gain for each channel": "channel", "learned gains": "learned"}
    titles = 0
    for line in (ROOT / "results" / "methods" / "README.md").read_text().splitlines():
        first, *others = [cell.strip(" *`") for cell in line.split("|")[1:-1]] or [""]
        if first.startswith("Conv"):
            network, _, prune = first.partition(", P = ")
            titles += 1
        elif line.startswith("|") and not first.startswith("-"):
            method = {"method": "biprop", "method.gains": gains[first]} if first in gains else {"method": first}
            expected = spread("results/methods/runs.csv", model=network.lower(), prune=f"0{prune}", **method)
            assert others[2] == expected.replace("-", "not run"), line
    assert titles == 6


def test_the_numbers_of_the_readme_stand_in_the_committed_tables():
    assert f"mean of 3 seeds | {percent('results/digits/demo.csv', variant='MPT-1/32', prune='0.8')} |" in README
    fig2 = {"path": "results/mini/fig2.csv", "model": "conv4"}
    ticket, dense = percent(**fig2, variant="MPT-1/32", prune="0.5"), percent(**fig2, variant="dense")
    assert f"{ticket}, dense {dense}: the picture above" in README
    table = (ROOT / "results" / "README.md").read_text()
    for ticket, dense in (("resnet18_1_32", "resnet18_dense"), ("conv6_p8", "conv6_dense")):
        epochs, control = (
            list(csv.DictReader((ROOT / "results" / "gpu" / f"mpt_{name}.csv").read_text().splitlines()))
            for name in (ticket, dense)
        )
        found = re.search(f"{100 * float(epochs[-1]['test/acc']):.1f} %: {len(epochs)} epochs[^|]*", README)
        assert found, ticket
        assert f"dense {100 * float(control[-1]['test/acc']):.1f} %" in found[0]
    assert "72.2 %" in README
    assert "| 72.23 |" in table
    speed = {"path": "results/speed/tickets.csv", "engine": "torch"}
    ticket, dense = percent(**speed, prune="0.8"), percent(**speed, variant="dense")
    assert f"Their accuracies are {ticket}\nand {dense}." in README
    rows = list(csv.DictReader((ROOT / speed["path"]).read_text().splitlines()))
    fast = next(row for row in rows if (row["prune"], row["engine"]) == ("0.8", "unrolled"))
    whole = next(row for row in rows if row["variant"] == "dense")
    assert f"{float(fast['ms']):.2f} ms a picture and {float(fast['bits']):.2f} bits a weight" in README
    assert f"in torch takes {float(whole['ms']):.2f} ms and {float(whole['bits']):.0f} bits" in README
    published = csv.DictReader((PACKAGE / "analysis" / "published.csv").read_text().splitlines())
    paper = {row["top_1"] for row in published if (row["method"], row["network"]) == ("MPT (80)", "ResNet-18")}
    assert paper == set(re.findall(r"\| ResNet-18, P = \.8 \| ([\d.]+) % \|", README))


def test_the_readme_s_first_program_has_ten_lines():
    program = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    assert len([line for line in program.text.splitlines() if line.strip()]) <= 10


def rooms():
    """Room -> what CONTRIBUTING.md says that it may import."""
    rows = re.findall(r"(?m)^\| `([a-z_]+)(?:/|\.py)` \| [^|]+ \|([^|]*)\|$", CONTRIBUTING)
    return {room: set(re.findall(r"`(\w+)`", names)) for room, names in rows}


def test_contributing_names_every_room():
    there = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"} | there == set(rooms())


def test_contributing_s_rule_of_imports_is_the_one_that_is_held():
    for room, allowed in ALLOWED.items():
        assert rooms()[room] == allowed - {room}, room


def test_the_version_is_one():
    cited = re.search(r"(?m)^version: (.*)$", (ROOT / "CITATION.cff").read_text())[1]
    assert f"\n## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert cited == PROJECT["version"]


def test_the_page_of_results_is_the_schema_s():
    assert make.PAGE.read_text() == make.page()  # else: make docs
