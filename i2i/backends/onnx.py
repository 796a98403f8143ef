"""Networks as ONNX files, for other programs. Imported only where it is used, for it imports torch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from i2i.backends.turns import torch_turns
from i2i.errors import ModelError, PluginError

_CURE = "pip install 'i2i-engine[onnx]'"
_MOST = 2**14
"""Of the smallest sides, as a multiple of what they must be a multiple of; the file names no limit that matters."""
_INPUT, _OUTPUT = "pixels", "answer"


class _Named(nn.Module):
    """A network whose input has the name that the file gives it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        answer: Tensor = self.network(pixels)
        return answer


def write_onnx(network: nn.Module, channels: int, multiple_of: int, path: Path, record: Mapping[str, str]) -> None:
    """A file of one input ``pixels`` (N, channels, H, W) float32 and one output ``answer``, for any N, and any H and W that are
    multiples of ``multiple_of``. ``record``: texts that are kept in its metadata. Raises ``ModelError`` where the packages are
    missing, ``PluginError`` for a network that cannot be written so."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ModelError(f"ONNX files need the package {missing[0]}: {_CURE}")
    dim, example = torch.export.Dim, torch.zeros((2, channels, 2 * multiple_of, 3 * multiple_of))
    sides = {2 + axis: multiple_of * dim(name, min=1, max=_MOST) for axis, name in enumerate(("rows", "columns"))}
    try:
        with torch_turns.alone(), torch.no_grad(), _quiet():
            program = torch.onnx.export(
                _Named(network).eval(), (example,), dynamo=True, input_names=[_INPUT], output_names=[_OUTPUT], verbose=False,
                dynamic_shapes={"pixels": {0: dim("images", min=1, max=4096)} | sides},
            )  # fmt: skip
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(f"the network cannot be written as ONNX: {reason}") from error
    assert program is not None
    program.model.metadata_props.update(record)
    program.save(path, external_data=False)


def onnx_answers(path: Path) -> Callable[[Tensor], Tensor] | None:
    """What onnxruntime computes by the file; None where it is not there."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run([_OUTPUT], {_INPUT: pixels.numpy()})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own versions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
