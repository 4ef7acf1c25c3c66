"""Ctrl-C while a console command is imported: the first thing that ``import mpt`` does, with what Python has loaded.

:func:`mpt.signals.handled` comes only when the rest is imported, so it is answered here until then.
"""

import os
import signal
import sys

_NAME = (getattr(sys.modules.get("__main__"), "__file__", None) or "").rpartition(os.sep)[2]  # of the script


def end(signum: int, frame: object) -> None:
    """End the process at once, with the sentence and the exit status of an interruption."""
    try:
        os.write(2, f"{_NAME}: interrupted: repeat the command\n".encode())
    finally:  # also if the stream is closed
        os._exit(128 + signum)


_OURS = _NAME.partition("-")[0] == "mpt" and "." not in _NAME
if _OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the parent ignores it: nohup
    signal.signal(signal.SIGINT, end)
