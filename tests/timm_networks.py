"""Every module file of timm: does its smallest network convert, or is it refused in words that are true?

    python -m tests.timm_networks [MODULE ...] > table       one row a module; each in a process of its own

A row is ``converts``, ``refused, and converts as advised`` (``dense=`` of the error, given once, must do), or ``cannot
be searched``. Anything else is a fault of mpt and starts with ``FAULT``.
"""

from __future__ import annotations

import ast
import multiprocessing
import re
import sys
import warnings

import torch

import mpt

SIZES = (32, 64, 96, 128, 160, 224, 256, 384)


def modules() -> dict[str, list[str]]:
    """The names of timm's networks by module file."""
    import timm

    return {module: sorted(timm.list_models(module=module)) for module in sorted(timm.list_modules())}


SMALL = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "tiny",
    "_xs",
    "_s0",
    "_t0",
    "micro",
    "small",
    "10",
    "18",
    "50",
)


def smallest(names: list[str]) -> str:
    """The network with the fewest parameters among the eight whose names promise least; built without memory."""
    import timm

    sizes = {}
    promise = [next((i for i, word in enumerate(SMALL) if word in name), len(SMALL)) for name in names]
    for name in [name for _, name in sorted(zip(promise, names, strict=True))][:8]:
        try:
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name, num_classes=10).parameters())
        except Exception:  # some networks compute with values while they are built
            continue
    return min(sizes, key=sizes.__getitem__) if sizes else names[0]


def build(name: str) -> tuple[torch.nn.Module, int]:
    """The network for the smallest images that it takes, and their side."""
    import timm

    for options in ({"img_size": size} for size in SIZES):
        try:
            net = timm.create_model(name, num_classes=10, **options).eval()
            with torch.no_grad():
                net(torch.zeros(2, 3, options["img_size"], options["img_size"]))
            return net, options["img_size"]
        except Exception:
            continue
    net = timm.create_model(name, num_classes=10).eval()
    own = net.default_cfg["input_size"][1] if getattr(net, "default_cfg", None) else 224
    for size in (*SIZES, own):
        try:
            with torch.no_grad():
                net(torch.zeros(2, 3, size, size))
            return net, size
        except Exception:
            continue
    raise ValueError("takes no picture")


def verdict(net: torch.nn.Module, size: int) -> str:
    """One line about a conversion of ``net``."""
    dense: list[str] = []
    for tries in (1, 2, 3):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                converted = mpt.convert(
                    net, mpt.Biprop(prune=0.5), seed=0, dense=dense, example=torch.zeros(2, 3, size, size)
                )
        except ValueError as error:
            if "cannot be searched" in str(error):
                return f"cannot be searched: {error}"
            advised = re.search(r"dense=(\[[^]]*\])", str(error))
            if not advised:
                return f"FAULT no advice: {error}"
            dense, reason = ast.literal_eval(advised[1]), str(error)
            continue
        layers = len(mpt.layer_table(converted).layers)
        dead = next((str(w.message) for w in caught if "will hardly learn" in str(w.message)), "")
        dead = f"; {dead}" if dead else ""
        if tries == 1:
            return f"converts: {layers} layers{dead}"
        outcome = "refused, and converts as advised" if tries == 2 else "FAULT advised twice"
        return f"{outcome}: {layers} layers, {reason}{dead}"
    return f"FAULT three times: {reason}"


def row(module: str) -> str:
    name = smallest(modules()[module])
    net, size = build(name)
    return f"{name} ({size} pixels) {verdict(net, size)}"


def report(module: str) -> None:
    try:
        print(f"{module}: {row(module)}", flush=True)
    except Exception as error:
        print(f"{module}: FAULT {type(error).__name__}: {error}", flush=True)


def main(wanted: list[str]) -> None:
    for module in wanted or modules():
        process = multiprocessing.get_context("fork").Process(target=report, args=(module,))
        process.start()
        process.join()
        if process.exitcode:
            print(f"{module}: FAULT ended with {process.exitcode}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
