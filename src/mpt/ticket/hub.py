"""Tickets on the Hugging Face Hub: one file and a model card in a repository, found again by name and revision.

address = ticket.push_to_hub("user/name");  ticket = mpt.Ticket.load("hf://user/name@revision")

The card names the ticket's digest. A file whose content has another one is refused. ``HF_ENDPOINT`` and ``HF_TOKEN``
are the hub's own settings.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from mpt.files import DamagedError, version
from mpt.schema import printable
from mpt.ticket import format as files

SCHEME = "hf://"
FILE, CARD = "ticket.safetensors", "README.md"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
DIGEST = re.compile(r"(?m)^mpt_digest: ([0-9a-f]{32})$")


def push(
    ticket: Any, name: str, *, result: Mapping[str, Any] | None = None, private: bool = False, token: str | None = None
) -> str:
    """Upload a :class:`mpt.Ticket` and its model card as one commit.

    Args:
        ticket: to upload.
        name: ``user/name`` of the repository, which is made if there is none.
        result: of the run, the content of its ``result.json``; the card shows data, accuracy and hardware.
        private: whether a new repository is.
        token: of the hub; None for the one of ``hf auth login`` or ``HF_TOKEN``.

    Returns:
        ``hf://user/name@revision``.

    Raises:
        ValueError, OSError: one sentence says what is wrong: the name, no token, no right to write, no network.
    """
    _check_name(name)
    hub = _hub()
    token = token or hub.get_token()
    if token is None:
        raise ValueError("to upload a ticket the hub needs to know you: run hf auth login, or set HF_TOKEN")
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token, library_name="mpt", library_version=version())
    with TemporaryDirectory() as folder, _explained(name):
        path = Path(folder, FILE)
        ticket.save(path)
        content = {FILE: path.read_bytes(), CARD: card(ticket, name, result or {}).encode()}
        operations = [hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=data) for file, data in content.items()]
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(name, operations, commit_message=f"Ticket {ticket.digest}")
    return f"{SCHEME}{name}@{done.oid}"


def read(address: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of the ticket at ``hf://user/name`` or ``hf://user/name@revision``, through the hub's cache.

    Raises:
        ValueError, OSError: one sentence says what is wrong: the name, the revision, no network, an altered file.
    """
    name, _, revision = address.removeprefix(SCHEME).partition("@")
    _check_name(name)
    hub, where = _hub(), {"revision": revision or None, "endpoint": os.environ.get("HF_ENDPOINT")}
    with _explained(name, revision):
        path, about = (Path(hub.hf_hub_download(name, file, **where)) for file in (FILE, CARD))
    if re.fullmatch("[0-9a-f]{40}", revision) and path.parent.name != revision:
        raise DamagedError(f"the hub answered {printable(address)} with another revision: do not use what it sent")
    header, tensors = files.read(path)
    said = DIGEST.search(about.read_text(errors="replace"))
    if said is None or said[1] != files.digest_of(header, tensors):
        raise DamagedError(
            f"the ticket of {printable(address)} is not the one that its card names: it was altered after its upload"
        )
    return header, tensors


def card(ticket: Any, name: str, result: Mapping[str, Any]) -> str:
    """The model card: YAML that the hub reads, then what the ticket is, how it was found, and how to use it."""
    method = ticket.header["method"]["name"]
    bits = ticket.file_bits / ticket.num_weights
    kept = f"{ticket.num_kept:,} of {ticket.num_weights:,} kept, {bits:.3f} bits a weight"
    facts = {"method": method, "seed": ticket.header["seed"], "weights": kept, "digest": ticket.digest}
    facts |= {
        key: result[key]
        for key in ("data", "model", "prune", "width", "epochs", "num_test", "hardware")
        if key in result
    }
    if "test_acc" in result:
        facts["test accuracy"] = f"{100 * result['test_acc']:.2f} %"
    rows = [f"| {key} | {printable(str(value)).replace('|', ' ')} |" for key, value in facts.items()]
    return "\n".join(
        [
            "---",
            "library_name: mpt",
            "tags: [lottery-ticket, binary-weights, image-classification]",
            f"mpt_digest: {ticket.digest}",
            "---",
            f"# {name}: a multi-prize lottery ticket",
            "",
            "A part of a network, found by mpt: the searched layers keep random weights that were never trained.",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "```python",
            "import mpt",
            "",
            f'ticket = mpt.Ticket.load("{SCHEME}{name}")',
            "```",
            "",
        ]
    )


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        raise ValueError(
            f"a repository on the hub is named user/name, of letters, digits, '-', '_' and '.', got {printable(name)!r}"
        )


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError("the hub needs huggingface_hub: pip install 'multiprize[hub]'") from error
    return huggingface_hub


@contextmanager
def _explained(name: str, revision: str = "") -> Iterator[None]:
    """Errors of the hub's library as one sentence each."""
    from huggingface_hub import errors

    at = f" at revision {printable(revision)}" if revision else ""
    log = logging.getLogger("huggingface_hub.utils._http")
    log.addFilter(_is_short)
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name} has no revision {printable(revision)} on the hub") from error
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise ValueError(
            f"the hub has no {name}, or your token may not read it: check the name, or hf auth login"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(f"the hub cannot be reached, and {name} is not in its cache: check the network") from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"{name}{at} holds no ticket of mpt: it lacks {FILE} or {CARD}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise ValueError(
            f"the hub refused {name} with status {status}: check that your token may write there"
        ) from error
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # of the library that speaks HTTP
        raise OSError(f"the hub cannot be reached: check the network ({printable(str(error))[:200]})") from error
    finally:
        log.removeFilter(_is_short)


def _is_short(record: logging.LogRecord) -> bool:
    """Whether a line of the hub's library says that it tries again; the one before it repeats the error at length."""
    return "thrown while requesting" not in record.getMessage()
