"""The forward and backward of a training step as one CUDA graph: recorded once, then replayed by a single call.

A small network leaves a GPU waiting for Python, which launches some hundred kernels a step. A replay launches them all.
The kernels are those of the plain step. What Python decides is decided at the recording:
a step of another shape (the last of an epoch) runs without the graph, and every epoch of a ramp records again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from mpt.data import Batch
from mpt.run.settings import Settings
from mpt.search.methods import Method

WARM_UP = 3  # plain steps before the recording, in which libraries choose their kernels and allocate


class Step(NamedTuple):
    """What a training step computes: the loss that it minimises, the plain loss, both 0-d, and logits (N, classes)."""

    loss: Tensor
    plain: Tensor
    logits: Tensor


class RecordedStep:
    """Computes a step and its gradients, from the fourth full step on by replaying a CUDA graph.

    Args:
        compute: forward and losses of a batch.
        net: its parameters get the gradients, which must be left in place between two steps.
    """

    def __init__(self, compute: Callable[[Batch], Step], net: nn.Module) -> None:
        self.compute = compute
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.forget()

    def forget(self) -> None:
        """Record again, after plain steps: something that Python decides has changed."""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.steps = 0

    def __call__(self, batch: Batch) -> Step:
        """The step of ``batch``, detached; the gradients are in the parameters."""
        full = batch.share == 1
        if full and self.graph is None and self.steps == WARM_UP:
            self._record(batch)
        if not full or self.graph is None:
            self.steps += full
            return self._plain(batch)
        self.images.copy_(batch.images)
        self.labels.copy_(batch.labels)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # a plain step has put others there
        return self.step

    def _plain(self, batch: Batch) -> Step:
        """The step without a graph, on the stream of the recording: autograd keeps to the stream of the forward."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            step = self._forward_and_backward(batch)
        current.wait_stream(self.stream)
        return step

    def _record(self, batch: Batch) -> None:
        self.images, self.labels = batch.images.clone(memory_format=torch.preserve_format), batch.labels.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.step = self._forward_and_backward(batch._replace(images=self.images, labels=self.labels))
        self.gradients, self.graph = [parameter.grad for parameter in self.parameters], graph

    def _forward_and_backward(self, batch: Batch) -> Step:
        for parameter in self.parameters:
            parameter.grad = None
        precision = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", dtype=precision[0], enabled=precision[1], cache_enabled=False):
            step = self.compute(batch)
        loss = step.loss if batch.share == 1 else step.loss * batch.share
        with torch.autocast("cuda", enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        return Step(loss.detach(), step.plain.detach(), step.logits.detach())


def check_recordable(settings: Settings, method: Method, trainer: L.Trainer) -> None:
    """ValueError if ``trainer.graph=true`` does not suit the run, with the option to change."""
    if not settings.trainer.graph:
        return
    plain = type(method).update is Method.update and type(method).sample is Method.sample
    obstacles = {
        "a CUDA GPU": trainer.strategy.root_device.type == "cuda",
        "one process (trainer.devices=1)": trainer.world_size == 1,
        "trainer.precision=32-true or bf16-mixed": settings.trainer.precision != "16-mixed",
        "optim.accumulate=1": settings.optim.accumulate == 1,
        "a loss without a teacher (distill=null)": settings.distill is None,
        "optim.averaging=none": settings.optim.averaging == "none",
        "method.gains=layer or channel with binary_activations": (
            method.gains != "learned" or not settings.binary_activations  # one gain of 228 differed in its last bit
        ),
        "a method whose steps are all alike, with method.selection=layerwise, global or threshold": (
            plain and method.selection != "calibrated"
        ),
    }
    for needed, fits in obstacles.items():
        if not fits:
            raise ValueError(f"trainer.graph=true needs {needed}: change that, or leave trainer.graph out")
