"""Execute the notebooks in place (``make notebooks``), and keep of their outputs what is the same on every machine.

Temporary folders become ``runs``, and speeds and remaining times are left out, as are warnings on the error stream.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # the commands of this environment
    "CUDA_VISIBLE_DEVICES": "",
    "WANDB_MODE": "disabled",
    "COLUMNS": "120",
}
NOISE = (  # what differs from run to run
    (re.compile(rf"{re.escape(tempfile.gettempdir())}/tmp\w+"), "runs"),
    (re.compile(r" +[\d,]+ images/s( +[\w. ]+ left)?"), ""),
    (re.compile(r"^time        about .*\n", re.MULTILINE), ""),
    (re.compile(r" \(native bf16: .*\)"), ""),
)


def notebooks() -> list[Path]:
    """The notebooks, sorted by their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> Any:
    """The notebook at ``path`` after its execution from top to bottom, with the outputs as they came.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    os.environ.update(ENVIRONMENT)  # the kernel inherits it
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    client.execute()
    return notebook


def clean(notebook: Any) -> None:
    """Leave out of ``notebook`` what is of this machine or of this moment."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = joined([output for output in cell.outputs if output.get("name") != "stderr"])
        for output in cell.outputs:
            if "text" in output:
                output.text = without_noise(output.text)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = without_noise(content)


def joined(outputs: list[Any]) -> list[Any]:
    """The outputs, with neighbouring pieces of printed text as one."""
    kept: list[Any] = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def without_noise(text: str) -> str:
    """``text`` without speeds, remaining times and names of temporary folders."""
    for pattern, instead in NOISE:
        text = pattern.sub(instead, text)
    return text


def main() -> None:
    """Execute all notebooks, or those whose names are given."""
    for path in notebooks():
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            start = time.monotonic()
            notebook = execute(path)
            clean(notebook)
            nbformat.write(notebook, path)
            print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
