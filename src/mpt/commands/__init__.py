"""The console commands and what they print. They import torch only when there is work.

The script of a command imports this room first. :func:`mpt.signals.handled` comes only when the rest is imported, so
Ctrl-C is answered here until then.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

_NAME = (getattr(sys.modules.get("__main__"), "__file__", None) or "").rpartition(os.sep)[2]  # of the script


def end(signum: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # the stream is closed
        os.write(2, f"{_NAME}: interrupted: repeat the command\n".encode())
    os._exit(128 + signum)


_OURS = _NAME.partition("-")[0] == "mpt" and "." not in _NAME
if _OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the parent ignores it: nohup
    signal.signal(signal.SIGINT, end)
