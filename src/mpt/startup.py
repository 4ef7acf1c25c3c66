"""Ctrl-C while a console command is imported: the first thing that ``import mpt`` does, with what Python has loaded.

:func:`mpt.signals.handled` comes only when the rest is imported, so it is answered here until then.
"""

import os
import signal
import sys

WORDS = "train eval predict finetune ticket theory report status wandb dashboard results plot verdicts"
COMMANDS = "mpt", *(f"mpt-{word}" for word in WORDS.split())
_NAME = (getattr(sys.modules.get("__main__"), "__file__", None) or "").rpartition(os.sep)[2]  # of the script


def end(signum: int, frame: object) -> None:
    """End the process at once, with the sentence and the exit status of an interruption."""
    try:
        os.write(2, f"{_NAME}: interrupted: repeat the command\n".encode())
    finally:  # also if the stream is closed
        os._exit(128 + signum)


if _NAME in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as by nohup
    try:  # noqa: SIM105  # contextlib is not loaded
        signal.signal(signal.SIGINT, end)
    except ValueError:  # in a thread
        pass
