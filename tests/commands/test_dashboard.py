from __future__ import annotations

import json

import pytest

from tests.console import command


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb_workspaces' own
def test_a_workspace_is_built_offline_and_shows_the_runs_of_its_sweep(tmp_path):
    pytest.importorskip("wandb_workspaces")
    from wandb_workspaces.workspaces import internal

    offline = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    output = command("dashboard", "fig2", "entity=me", cwd=tmp_path, environment=offline).stdout
    assert "not saved online, because there is no account" in output
    content = (tmp_path / "fig2-dashboard.json").read_text()
    view = internal.View.model_validate_json(content)  # W&B's own schema reads it back
    bank = view.spec.section.panel_bank_config
    assert [section.name for section in bank.sections] == ["Accuracy of the tickets", "Epochs", "Layers"]
    for expected in ("ticket/gain/.*", "ticket/flips/.*", "test_acc", "prune", "width", "model.name"):
        assert expected in content, expected
    assert '"fig2"' in json.dumps(json.loads(content)["spec"]["section"]["runSets"])


def test_a_dashboard_for_no_sweep_is_refused(tmp_path):
    assert "there is no sweep fig9: take one of fig2" in command("dashboard", "fig9", cwd=tmp_path, check=False).stderr
    assert "name one sweep: mpt-dashboard" in command("dashboard", cwd=tmp_path, check=False).stderr
