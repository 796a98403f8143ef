"""Networks as ONNX files, for other programs. Imported only where it is used, for it imports torch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from i2i.backends.turns import torch_turns
from i2i.errors import ModelError, PluginError

_CURE = "pip install 'i2i-engine[onnx]'"
_MOST = 2**14
"""Of the smallest sides, as a multiple of what they must be a multiple of; the file names no limit that matters."""
_TOLERANCE = 1e-3
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
    dim, example = torch.export.Dim, torch.zeros(_shape(2, channels, multiple_of))
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


def onnx_difference(network: nn.Module, channels: int, multiple_of: int, path: Path) -> float | None:
    """The largest difference of the file's answers, as onnxruntime computes them, to the network's, for noise of two sizes, as a
    share of their range; None without onnxruntime. Raises ``PluginError`` when it is above 1e-3."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in (1, 2):
        seen = torch.randn(_shape(count, channels, multiple_of), generator=torch.Generator().manual_seed(count))
        with torch_turns.shared(), torch.no_grad():
            own = network.eval()(seen).numpy()
        (other,) = session.run([_OUTPUT], {_INPUT: seen.numpy()})
        worst = max(worst, float(np.abs(own - other).max() / max(float(np.ptp(own)), 1e-6)))
    if not worst <= _TOLERANCE:
        raise PluginError(f"the ONNX file's answers differ by {worst:.1e} of their range from the network's; please report it")
    return worst


def _shape(count: int, channels: int, multiple_of: int) -> tuple[int, ...]:
    """Two sides that are not equal, 64 pixels at least."""
    times = -(-64 // multiple_of)
    return count, channels, (times + count) * multiple_of, (times + 2 * count) * multiple_of


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
