"""Other ways to run a ticket's dense network on a CPU: torch.compile, onnxruntime and OpenVINO (extra ``bench``).

The int8 models have weights and activations quantised by onnxruntime's static quantisation, weights per channel,
calibrated on the images of the benchmark: their logits differ, unlike those of a compiled ticket. OpenVINO reads the
same files; in float32 it is told to stay there, because on CPUs that have bfloat16 it would use that.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from click import unstyle
from torch import Tensor, nn

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
Call = Callable[[], Any]


def make(
    dense: nn.Module,
    images: Tensor,
    threads: int,
    *,
    folder: Path,
    missing: dict[str, str],
    names: Collection[str] | None = None,
) -> dict[str, Call]:
    """A call for each rival that can be made; ``missing`` gets the reason for each of the others.

    ``folder`` is for ONNX files of the network at this batch, which the next call for the same finds there. ``names``
    are those to try, by default all.
    """
    calls: dict[str, Call] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = Files(dense, images, folder)
        for name, maker in RIVALS.items():
            if names is not None and name not in names:
                continue
            try:
                call = maker(dense, images, threads, files)
                call()
            except Exception as error:  # any of five large libraries may fail in its own way: the table says so
                first, *_ = unstyle(str(error)).strip().splitlines() or [""]
                missing[name] = f"{type(error).__name__}: {first}"
            else:
                calls[name] = call
    return calls


class Files:
    """The dense network as ONNX files, each written when it is first asked for."""

    def __init__(self, dense: nn.Module, images: Tensor, folder: Path) -> None:
        self.dense, self.images, self.folder = dense, images, folder

    def float32(self) -> Path:
        path = self.folder / "float32.onnx"
        if not path.exists():
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                program = torch.onnx.export(
                    self.dense, (self.images,), input_names=["images"], dynamo=True, verbose=False
                )
            program.save(path)
        return path

    def int8(self) -> Path:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        path = self.folder / "int8.onnx"
        if not path.exists():
            logging.getLogger().setLevel(logging.ERROR)  # onnxruntime writes to the root logger
            ready = self.folder / "ready.onnx"
            quant_pre_process(self.float32(), ready)
            kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
            quantization.quantize_static(ready, path, _calibration(self.images), per_channel=True, **kinds)
        return path


def _calibration(images: Tensor) -> Any:
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"images": images.numpy()}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    return Images()


def _torch_compile(dense: nn.Module, images: Tensor, threads: int, files: Files) -> Call:
    torch.compiler.reset()
    compiled = torch.compile(dense, options={"freezing": True})
    return lambda: compiled(images)


def _onnxruntime(
    dense: nn.Module, images: Tensor, threads: int, files: Files, *, path: Callable[[Files], Path]
) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path(files), options, providers=["CPUExecutionProvider"])
    array = images.numpy()
    return lambda: session.run(None, {"images": array})


def _openvino(dense: nn.Module, images: Tensor, threads: int, files: Files, *, path: Callable[[Files], Path]) -> Call:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = (
        openvino.Core().compile_model(openvino.Core().read_model(path(files)), "CPU", settings).create_infer_request()
    )
    array = images.numpy()
    return lambda: request.infer({0: array}, share_inputs=True, share_outputs=True)


RIVALS = {
    "torch.compile": _torch_compile,
    "onnxruntime": partial(_onnxruntime, path=Files.float32),
    "onnxruntime int8": partial(_onnxruntime, path=Files.int8),
    "OpenVINO": partial(_openvino, path=Files.float32),
    "OpenVINO int8": partial(_openvino, path=Files.int8),
}


def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
