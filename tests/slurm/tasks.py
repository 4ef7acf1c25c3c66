"""One task of srun, for tests: ``python tasks.py SOCKET CASES``, a JSON file of name -> arguments of ``mpt-train``.

It gives all the commands one after the other, each as a fork (:mod:`tests.slurm.task`), together with the other tasks
of its step. What they print goes to NAME.RANK.said, and their status to NAME.RANK.status.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.slurm.task import run


def main(socket: str, path: Path) -> None:
    rank, count = os.environ["SLURM_PROCID"], int(os.environ["SLURM_STEP_NUM_TASKS"])
    for name, arguments in json.loads(path.read_text()).items():
        answer = path.parent / f"{name}.{rank}.status"
        with answer.with_suffix(".said").open("w") as said:
            for number in (1, 2):
                os.dup2(said.fileno(), number)
        answer.with_suffix(".part").write_text(str(run(socket, ["mpt-train", *arguments])))
        answer.with_suffix(".part").rename(answer)
        while len(list(path.parent.glob(f"{name}.*.status"))) < count:  # the next command uses the same port
            time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
