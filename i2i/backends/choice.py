"""Which backend runs a network: torch, or OpenVINO where it is installed and pays."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from i2i.backends.devices import has_bf16, run_batch, to_array
from i2i.contracts import Array, DensePredictor, Footprint, Predictor, Runtime
from i2i.errors import PluginError, UsageError
from i2i.geometry import round_up

if TYPE_CHECKING:
    import torch

TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 5e-3}
"""The largest difference between two ways to compute the same, two tilings or two backends, as a share of the output's range."""
AUTO_PIXELS = 200_000_000
"""Pixels of an image from which ``auto`` takes OpenVINO: it takes about 3 s to start and saves as much in 100 megapixels
(measured: a U-Net on two cores)."""
_OVERHEAD_BYTES = {"torch": 0, "openvino": 400_000_000}
_ACTIVATIONS = {"torch": 1.0, "openvino": 0.6}
_CHECKED_CORE = 64


def installed_backends() -> tuple[str, ...]:
    """The backends that this installation has, torch first. Imports none of them."""
    return ("torch", "openvino") if find_spec("openvino") else ("torch",)


def overhead_bytes(backend: str) -> int:
    """Memory that ``backend`` takes beyond what torch takes, whatever the window: its library, the traced network, a second copy
    of the weights (measured: 0.31 GB with 31 MB of weights, 0.36 GB with 124 MB)."""
    return _OVERHEAD_BYTES[backend]


def activation_share(backend: str) -> float:
    """Memory that a window's activations take, as a share of the predictor's ``window_bytes``, which are torch's. OpenVINO plans
    its memory: 0.51 to 0.56 measured, in fp32 and bf16; and it takes the windows of a batch one by one."""
    return _ACTIVATIONS[backend]


def pick_backend(asked: str, predictor: Predictor, device: str, precision: str, pixels: int = 0) -> str:
    """``auto`` becomes openvino or torch; ``pixels`` are the image's. Raises ``UsageError`` for openvino where it cannot run.

    Nothing is timed: the same image on the same installation has the same backend. OpenVINO is taken where it was measured
    to be faster: an x86-64 processor that computes in ``precision``, and enough pixels to pay for its start.
    """
    obstacle = _obstacle(predictor, device, precision)
    if asked == "openvino" and obstacle:
        raise UsageError(f"--backend openvino: {obstacle}")
    if asked != "auto":
        return asked
    computed = precision == "fp32" or has_bf16(device)
    pays = pixels >= AUTO_PIXELS and platform.machine() in ("x86_64", "AMD64") and computed
    return "openvino" if pays and not obstacle else "torch"


def _obstacle(predictor: Predictor, device: str, precision: str) -> str:
    """Why OpenVINO cannot run this, and the cure; empty when it can."""
    if "openvino" not in installed_backends():
        return "not installed; pip install 'i2i-engine[openvino]', or use --backend torch"
    if device != "cpu":
        return f"runs on the CPU, not on {device}; use --device cpu or --backend torch"
    if precision not in ("fp32", "bf16"):
        return f"has no {precision}; use --precision fp32 or --backend torch"
    if not (isinstance(predictor, DensePredictor) and predictor.traceable):
        return "this network cannot be traced, nor can several models or --tta; use --backend torch"
    return ""


def compile_network(
    predictor: DensePredictor, shape: tuple[int, int, int, int], runtime: Runtime, threads: int | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What runs ``predictor`` on the runtime's backend: itself for torch. ``shape``: (batch, channels, height, width) of a full
    batch; ``threads``: torch's number if None.

    The answer takes batches of that height and width, any number of windows, as ``run_batch`` gives them. Each window's
    bytes depend on that window alone. Raises ``UsageError`` or ``PluginError`` where OpenVINO cannot run the network.
    """
    if runtime.backend == "torch":
        return predictor
    if obstacle := _obstacle(predictor, runtime.device, runtime.precision):
        raise UsageError(f"--backend openvino: {obstacle}")
    import torch

    from i2i.backends.openvino import compile_window

    return compile_window(predictor, shape[1:], runtime.precision, threads or torch.get_num_threads())


def confirm_backend(asked: str, predictor: DensePredictor, window: Array, runtime: Runtime) -> tuple[str, list[str]]:
    """The runtime's backend if it gives what torch gives, and notes for the user. ``window``: one of the image's, (height, width,
    channels) float32, normalised; a piece of its centre is computed both ways.

    Otherwise torch with a note when ``auto`` was asked, and ``UsageError`` when this backend was.
    """
    if runtime.backend == "torch":
        return "torch", []
    try:
        found, allowed = _difference(predictor, window, runtime), TOLERANCE[runtime.precision]
        if found <= allowed:
            return runtime.backend, []
        reason = f"its answer differs from torch's by {found:.1e} of the range, above {allowed:.0e}"
    except PluginError as error:
        reason = str(error)
    if asked == "auto":
        return "torch", [f"{runtime.backend} is not used for this model: {reason}"]
    raise UsageError(f"--backend {runtime.backend}: {reason}; use --backend torch")


def _difference(predictor: DensePredictor, window: Array, runtime: Runtime) -> float:
    """The largest difference from torch's answer, as a share of that answer's range, 0 included."""
    piece = _centre(window, predictor.footprint)
    network = compile_network(predictor, (1, piece.shape[2], *piece.shape[:2]), runtime)
    first, second = (to_array(run_batch(one, [piece], runtime)) for one in (predictor, network))
    if first.shape != second.shape:
        return float("inf")
    span = max(0.0, float(first.max())) - min(0.0, float(first.min()))
    with np.errstate(invalid="ignore"):  # infinite answers differ by nan, which no tolerance allows
        return float(np.abs(first - second).max()) / (span or 1.0)


def _centre(window: Array, footprint: Footprint) -> Array:
    """The centre of a window, as small as the network takes it with a core of ``_CHECKED_CORE`` pixels: two backends at work on a
    whole window would take the memory of both."""
    if footprint.fixed_tile is not None:
        return window
    multiple = footprint.multiple_of
    side = 2 * round_up(footprint.halo, multiple) + round_up(_CHECKED_CORE, multiple)
    top, left = (max(0, length - side) // 2 for length in window.shape[:2])
    return window[top : top + side, left : left + side]
