"""One task of srun, for tests: ``tasks.py CASES``, where CASES is a JSON file of name -> arguments of ``mpt-train``.

It gives all the commands one after the other, each as a fork of a process that has imported torch, together with the
other tasks of its step, and writes NAME.RANK.json: status, output and errors.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.console import process


def main(path: Path) -> None:
    rank, count = os.environ["SLURM_PROCID"], int(os.environ["SLURM_STEP_NUM_TASKS"])
    for name, arguments in json.loads(path.read_text()).items():
        done = process("train", *arguments, cwd=path.parent)
        answer = path.parent / f"{name}.{rank}.json"
        answer.with_suffix(".part").write_text(json.dumps(done))
        answer.with_suffix(".part").rename(answer)
        while len(list(path.parent.glob(f"{name}.*.json"))) < count:  # the next command uses the same port
            time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
