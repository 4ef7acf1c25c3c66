"""The server: one page, for this machine alone, made again when the runs have changed."""

from __future__ import annotations

import http.client
import json
import threading

import pytest

from mpt.pages import serve
from mpt.pages.build import Page, build
from mpt.run.claim import hold_claim


@pytest.fixture
def ask(runs, monkeypatch):
    """``ask(method, path, **headers)`` of a server of the page of ``runs``."""
    monkeypatch.setattr(serve, "LEAST", 0.0)
    monkeypatch.setattr(serve, "SHARE", 0)
    watched = serve.Watched(runs, lambda: build(runs, watched=True))
    with serve.open_server(watched, port=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def request(method, path="/", **headers):
            connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()

        request.address = server.server_address
        yield request
        server.shutdown()
        thread.join()


def test_the_page_is_served_on_the_loopback_address(ask):
    status, headers, content = ask("GET")
    assert status == 200
    assert ask.address[0] == "127.0.0.1"
    assert f"data-watched={headers['ETag']}" in content
    assert "connect-src 'self'" in content


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/x", "/favicon.ico", "/../", "/report.html", "/?/../x/..%2f", "/%2e%2e/etc/passwd"])
def test_nothing_else_is_served(ask, path):
    status, _, content = ask("GET", path)
    assert status == (200 if path.startswith("/?") else 404)
    assert "root:" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
def test_nothing_can_be_sent(ask, method):
    assert ask(method)[0] == 501


def test_another_name_of_this_machine_is_refused(ask):
    """A web site whose name leads to 127.0.0.1 must not read the page."""
    assert ask("GET", Host="example.org")[0] == 403
    assert ask("GET", Host=f"localhost:{ask.address[1]}")[0] == 200


@pytest.mark.slow
def test_the_tag_changes_when_a_run_goes_on_and_not_before(ask, one):
    tag = ask("HEAD")[1]["ETag"]
    assert ask("HEAD")[1]["ETag"] == tag
    rows = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    (one / "metrics.jsonl").write_text("".join(json.dumps(row | {"test/acc": 0.9}) + "\n" for row in rows))
    status, headers, content = ask("HEAD")
    assert (status, content) == (200, "")
    assert headers["ETag"] != tag


def test_a_run_that_begins_or_dies_is_noticed(runs):
    before = serve.state_of(runs)
    with hold_claim(runs / "new"):
        running = serve.state_of(runs)
    assert running != before
    (runs / "dead").mkdir()
    (runs / "dead" / "claim").write_text("{}")
    assert serve.state_of(runs) not in (before, running)


def test_the_page_is_not_made_again_without_a_reason(runs):
    made = []

    def make():
        made.append(1)
        return Page("x", str(len(made)))

    watched = serve.Watched(runs, make)
    assert [watched.page().digest for _ in range(5)] == ["1"] * 5
    watched.made = -1e9
    assert watched.page().digest == "1"
    assert len(made) == 1


@pytest.mark.slow
def test_a_page_that_cannot_be_made_is_no_end_of_the_server(ask, runs):
    assert ask("GET")[0] == 200
    runs.rename(runs.with_name("away"))
    assert ask("GET")[0] == 503
    runs.with_name("away").rename(runs)
    assert ask("GET")[0] == 200


def test_a_port_that_is_taken_is_said_and_the_usual_one_gives_way(ask, runs):
    watched = serve.Watched(runs, lambda: Page("x", "y"))
    with pytest.raises(ValueError, match=f"port={ask.address[1]} cannot be used"):
        serve.open_server(watched, port=ask.address[1])
    with serve.open_server(watched) as first, serve.open_server(watched) as second:
        assert first.server_address[1] != second.server_address[1]
