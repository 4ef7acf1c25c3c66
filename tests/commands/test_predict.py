from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import mpt
from mpt import backbones
from mpt.commands.predict import find_pictures, predict, table
from mpt.data import Loader, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of two classes, and a ticket for it."""
    root, random = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (root / split / name / "more").mkdir(parents=True)
            for i in range(6):
                pixels = random.integers(0, 256, (10 + i, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / ("more" if i == 3 else "") / f"{i}.png")
    data = load("image_folder", root=root, image_size=8, cache=root / "cache", progress=False)
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8, num_classes=2), mpt.Biprop(prune=0.5), seed=3)
    ticket = mpt.Ticket.from_network(
        net,
        class_names=list(data.class_names),
        normalization={"mean": list(data.mean), "std": list(data.std)},
        data={"name": "image_folder", "image_size": 8, "channels": 3},
    )
    ticket.save(root / "ticket")
    return root, data, ticket


def test_the_accuracy_over_a_folder_is_that_of_evaluation_picture_by_picture(folder):
    root, data, ticket = folder
    content = predict(root / "ticket", [root / "test"], batch=5)
    net, loader = ticket.network(), Loader(data.test, data=data, batch=4, train=False, channels_last=True)
    with torch.no_grad():
        indices = torch.cat([net(batch.images).argmax(dim=1) for batch in loader])
    assert [row["index"] for row in content["predictions"]] == indices.tolist()
    assert [row["class"] for row in content["predictions"]] == ["ant"] * 6 + ["bee"] * 6
    assert content["acc"] == (indices == data.test.labels).float().mean().item()
    assert content["num_images"] == 12
    assert json.loads(json.dumps(content)) == content
    lines = table(content, top=2).splitlines()
    assert len(lines) == 13
    assert lines[0].startswith(str(root / "test/ant/0.png"))
    assert "ant" in lines[0]
    assert "bee" in lines[0]
    assert lines[-1] == f"accuracy  {100 * content['acc']:.2f} % ({round(12 * content['acc'])} of 12 pictures)"


def test_files_and_folders_of_no_class_have_no_accuracy(folder):
    root, _, _ = folder
    for pictures in ([root / "test/ant/0.png"], [root / "test/ant"], [root / "test", root / "test/bee/0.png"], [root]):
        content = predict(root / "ticket", pictures)
        assert content["acc"] is None
        assert "accuracy" not in table(content)


def test_a_class_whose_name_is_not_utf_8_is_known_in_the_folder(tmp_path):
    folder = tmp_path / os.fsdecode(b"b\xff")
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    assert [picture.class_name for picture in find_pictures([tmp_path], class_names=["ant", "b\\xff"])] == ["b\\xff"]


def test_hidden_files_and_other_files_are_no_pictures(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "._a.jpg", "notes.txt", ".git/x.png", "c/d.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [picture.path.name for picture in find_pictures([tmp_path], class_names=())] == ["a.jpg", "b.PNG", "d.webp"]


def test_nothing_to_classify_is_refused(folder, tmp_path):
    root, _, _ = folder
    for sentence, pictures in (
        ("no picture is named", []),
        ("holds no pictures", [tmp_path]),
        ("there is no picture or folder at", [tmp_path / "x.png"]),
    ):
        with pytest.raises(FileNotFoundError, match=sentence):
            predict(root / "ticket", pictures)
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(ValueError, match=r"x\.png is not a readable picture"):
        predict(root / "ticket", [tmp_path])


def test_names_from_files_are_printed_without_control_characters_and_cut():
    rows = [{"picture": "a\x1b[2Jb.png", "class": None, "label": "", "index": 0, "probabilities": [0.75, 0.25]}]
    content = {"class_names": ["x\n" + "y" * 100, "ö"], "num_images": 1, "acc": None, "predictions": rows}
    text = table(content, top=2)
    assert text.isprintable()
    assert r"a\x1b[2Jb.png" in text
    assert r"x\nyyy" in text
    assert "ö 25.0 %" in text
    assert len(text) < 120


def test_the_command_prints_a_table_or_json(folder, monkeypatch, capsys, tmp_path):
    from mpt.commands import cli

    root, _, _ = folder
    ticket, pictures = str(root / "ticket"), str(root / "test")

    def printed(*arguments):
        monkeypatch.setattr("sys.argv", ["mpt-predict", *arguments])
        cli.predict()
        return capsys.readouterr().out

    content = predict(root / "ticket", [root / "test"])
    assert printed(ticket, pictures, "top=2") == table(content, top=2) + "\n"
    assert json.loads(printed(ticket, pictures, "json=true")) == content
    assert printed(ticket, str(root / "test/ant/0.png"), str(root / "test/bee/0.png")).count("%") == 2
    monkeypatch.setattr("sys.argv", ["mpt-predict", ticket])
    with pytest.raises(SystemExit) as ended:
        cli.predict()
    assert "no picture is named" in str(ended.value.code)


def test_pack_and_unpack_keep_the_digest(folder, tmp_path, monkeypatch):
    from mpt.commands.ticket import info, pack, unpack

    root, _, ticket = folder
    monkeypatch.chdir(tmp_path)
    assert ticket.digest in unpack(root / "ticket", ["out=old"])
    assert ticket.digest in pack(tmp_path / "old", ["out=new"])
    assert (tmp_path / "new").read_bytes() == (root / "ticket").read_bytes()
    assert mpt.Ticket.load(tmp_path / "old").digest == ticket.digest
    assert (tmp_path / "old").stat().st_size > (tmp_path / "new").stat().st_size
    assert f"entropy {ticket.entropy_bits / ticket.num_weights:.3f} bits" in info(tmp_path / "new", [])
    with pytest.raises(ValueError, match="old is there already"):
        unpack(tmp_path / "new", ["out=old"])
    with pytest.raises(ValueError, match="there is no option outt"):
        pack(tmp_path / "new", ["outt=x"])
