"""Networks through OpenVINO, on the CPU. Imported only where it is used, for it imports torch."""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
from torch import Tensor

from i2i.backends.turns import torch_turns
from i2i.contracts import DensePredictor, traced
from i2i.errors import PluginError, UsageError


def load_openvino() -> Any:
    """The package ``openvino``, without its telemetry: it reports each import and conversion to a server of its makers unless
    the user has opted out. Where its package ``openvino_telemetry`` cannot be imported, its own empty stand-in takes the
    place, so that package is made absent before the first import."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not to be imported
    import openvino

    return openvino


class CompiledNetwork:
    """A network for windows of one size. Windows are run one by one: as fast as a batch (within 4 % at 256 x 256, two threads),
    in less memory, without work for a batch that is not full, and no window can depend on its neighbours in the batch.

    Safe to call from several threads, which take turns.
    """

    def __init__(self, compiled: Any, exported: torch.export.ExportedProgram) -> None:
        self._request = compiled.create_infer_request()
        self._exported = exported  # OpenVINO may read its weights where they lie
        self._turn = threading.Lock()

    def __call__(self, batch: Tensor) -> Tensor:
        """(N, channels, height, width) float32 on the CPU -> (N, channels_out, height', width') float32."""
        windows = batch.contiguous().numpy()
        with self._turn:
            answers = [self._request.infer(windows[i : i + 1], share_inputs=True)[0] for i in range(len(windows))]
        return torch.cat([torch.from_numpy(answer) for answer in answers]).float()


def compile_window(predictor: DensePredictor, shape: tuple[int, int, int], precision: str, threads: int) -> CompiledNetwork:
    """``predictor`` for windows of ``shape`` (channels, height, width), in ``precision`` fp32 or bf16, on ``threads`` threads.

    Raises ``PluginError`` when it cannot be traced, converted or compiled, ``UsageError`` when the processor does not compute in
    ``precision``: OpenVINO would take another without a word.
    """
    openvino = load_openvino()
    asked = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}[precision]
    settings = {
        "INFERENCE_PRECISION_HINT": asked,
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # bound threads wait for the other processes on their core
    }
    exported, model = _convert(openvino, predictor, (1, *shape))
    try:
        compiled = openvino.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise PluginError(f"OpenVINO cannot compile {type(predictor).__name__}: {_first_line(error)}") from error
    if compiled.get_property("INFERENCE_PRECISION_HINT") != asked:
        raise UsageError(f"--precision {precision}: OpenVINO does not compute it on this processor; use fp32 or --backend torch")
    return CompiledNetwork(compiled, exported)


def _convert(openvino: Any, predictor: DensePredictor, shape: tuple[int, ...]) -> tuple[torch.export.ExportedProgram, Any]:
    """The predictor's operations on a batch of ``shape``, as torch and as OpenVINO have them. Nothing is computed: torch traces
    shapes alone."""
    try:
        with torch_turns.alone(), torch.no_grad():
            exported = torch.export.export(traced(predictor), (torch.zeros(shape),), strict=False)
            _make_contiguous(exported)
            return exported, openvino.convert_model(exported, input=[openvino.PartialShape(list(shape))])
    except Exception as error:  # a plugin's code is traced, and may raise anything
        raise PluginError(f"{type(predictor).__name__} cannot be traced for OpenVINO: {_first_line(error)}") from error


def _make_contiguous(exported: torch.export.ExportedProgram) -> None:
    """Weights in the order that OpenVINO wants. It would make copies of its own, free those of bf16 weights, and go on reading
    them (2026.4)."""
    for weights in (exported.constants, exported.state_dict):
        for name, weight in weights.items():
            if isinstance(weight, Tensor):
                weights[name] = weight.detach().contiguous()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
