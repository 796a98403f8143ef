"""Backends: which one is taken, and that OpenVINO gives what torch gives, the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.backends import (
    AUTO_PIXELS,
    TOLERANCE,
    activation_share,
    choice,
    compile_network,
    confirm_backend,
    has_bf16,
    is_out_of_memory,
    overhead_bytes,
    pick_backend,
    run_batch,
    to_array,
)
from i2i.contracts import DensePredictor, Footprint, ImageSpec, Runtime
from i2i.errors import PluginError, UsageError
from i2i.options import RunOptions
from i2i_unet.network import UNet, UNetConfig, folded, forward_window
from i2i_unet.network import footprint as unet_footprint
from tests.toys import Convolution

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
FP32, BF16 = Runtime("cpu", "fp32", "openvino"), Runtime("cpu", "bf16", "openvino")


class Traceable(Convolution):
    traceable = True


class Plus(DensePredictor):
    """The batch and something that ``extra`` makes of it."""

    traceable = True
    footprint = Footprint(halo=6, multiple_of=2)

    def __init__(self, extra) -> None:
        self.extra = extra

    def __call__(self, batch):
        return batch + self.extra(batch)


class UNetLike(DensePredictor):
    """A U-Net as the plugin runs it: batch norms folded, channels last, the weights in the run's precision."""

    traceable = True

    def __init__(self, config: UNetConfig, precision: str) -> None:
        torch.manual_seed(0)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        network = folded(UNet(config).eval().requires_grad_(False))
        self.network = network.to("cpu", dtype, memory_format=torch.channels_last)
        self.footprint = unet_footprint(config)

    def __call__(self, batch):
        return forward_window(self.network, batch.to(self.network.head.weight.dtype)).float()


def windows(count, height, width, channels=1, seed=0):
    return list(np.random.default_rng(seed).normal(size=(count, height, width, channels)).astype(np.float32))


def answers(network, pixels, runtime):
    return to_array(run_batch(network, pixels, runtime))


def difference(first, second):
    return float(np.abs(first - second).max() / (first.max() - first.min()))


# -------------------------------------------------------------------------------------------------------------- choosing


@pytest.fixture
def both_installed(monkeypatch):
    monkeypatch.setattr(choice, "installed_backends", lambda: ("torch", "openvino"))
    monkeypatch.setattr(choice.platform, "machine", lambda: "x86_64")


def test_torch_is_the_predictor_itself_and_costs_nothing():
    predictor = Convolution()
    assert compile_network(predictor, (1, 1, 64, 64), Runtime()) is predictor
    assert confirm_backend("auto", predictor, windows(1, 64, 64)[0], Runtime()) == ("torch", [])
    assert (overhead_bytes("torch"), activation_share("torch")) == (0, 1.0)
    assert overhead_bytes("openvino") > 250_000_000
    assert activation_share("openvino") < 1


def test_openvino_that_is_not_installed_names_the_cure(monkeypatch):
    monkeypatch.setattr(choice, "installed_backends", lambda: ("torch",))
    for ask in (
        lambda: pick_backend("openvino", Traceable(), "cpu", "fp32"),
        lambda: compile_network(Traceable(), (1, 1, 64, 64), FP32),
    ):
        with pytest.raises(UsageError, match=r"--backend openvino: not installed; pip install 'i2i-engine\[openvino\]'"):
            ask()
    assert pick_backend("auto", Traceable(), "cpu", "fp32", 10 * AUTO_PIXELS) == "torch"


@pytest.mark.parametrize(
    ("predictor", "device", "precision", "named"),
    [
        (Traceable, "cuda:0", "fp32", "--device cpu"),
        (Traceable, "cpu", "fp16", "--precision fp32"),
        (Convolution, "cpu", "fp32", "cannot be traced"),
    ],
)
def test_what_openvino_cannot_run_is_refused_or_left_to_torch(both_installed, predictor, device, precision, named):
    with pytest.raises(UsageError, match=named):
        pick_backend("openvino", predictor(), device, precision)
    assert pick_backend("torch", predictor(), device, precision) == "torch"
    if precision == "fp32":
        assert pick_backend("auto", predictor(), device, precision, 10 * AUTO_PIXELS) == "torch"


def test_auto_takes_openvino_where_it_pays(both_installed, monkeypatch):
    def auto(precision="fp32", pixels=AUTO_PIXELS):
        return pick_backend("auto", Traceable(), "cpu", precision, pixels)

    assert (auto(), auto(pixels=AUTO_PIXELS - 1)) == ("openvino", "torch")
    for native, expected in ((True, "openvino"), (False, "torch")):
        monkeypatch.setattr(choice, "has_bf16", lambda device, native=native: native)
        assert auto("bf16") == expected
    monkeypatch.setattr(choice.platform, "machine", lambda: "arm64")
    assert auto() == "torch"
    assert pick_backend("openvino", Traceable(), "cpu", "fp32") == "openvino", "asked for, it need not pay"


def test_auto_takes_torch_where_the_memory_is_too_small_for_openvino(both_installed, monkeypatch):
    from i2i import begin

    def make(spec, predictor, pixel_bytes, options, runtime):
        if runtime.backend == "openvino":
            raise UsageError("--memory: too small")
        return SimpleNamespace(backend=runtime.backend)

    monkeypatch.setattr(begin, "make_plan", make)
    source = SimpleNamespace(spec=ImageSpec(20_000, 20_000))
    plan, notes = begin.plan_plane(source, Traceable(), 1, RunOptions(), Runtime())
    assert plan.backend == "torch" and notes == ["openvino is not used: --memory is too small for it"]
    with pytest.raises(UsageError, match="--memory: too small"):
        begin.plan_plane(source, Traceable(), 1, RunOptions(backend="openvino"), Runtime())


def test_only_an_accelerator_runs_out_of_memory():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    for error in (RuntimeError("CUDA error: out of memory"), MemoryError(), ValueError("out of memory")):
        assert not is_out_of_memory(error)


# ------------------------------------------------------------------------------------------------------------- computing


@needs_openvino
def test_fp32_is_torchs_answer_and_nothing_less():
    predictor, pixels = Traceable(), windows(2, 64, 48)
    network = compile_network(predictor, (2, 1, 64, 48), FP32, threads=1)
    found = answers(network, pixels, FP32)
    assert found.shape == (2, 64, 48, 2)
    assert found.dtype == np.float32
    assert difference(answers(predictor, pixels, Runtime()), found) < 1e-6
    compiled = network._request.get_compiled_model()
    named = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING")
    assert [compiled.get_property(name) for name in named] == [1, 1, False]


@needs_openvino
@pytest.mark.skipif(not has_bf16("cpu"), reason="this processor has no bf16")
def test_bf16_is_near_torchs_answer():
    predictor, pixels = Traceable(), windows(1, 64, 64)
    exact, found = answers(predictor, pixels, Runtime()), answers(compile_network(predictor, (1, 1, 64, 64), BF16), pixels, BF16)
    assert 1e-6 < difference(exact, found) < TOLERANCE["bf16"]


@needs_openvino
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("runtime", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_unet_agrees_whatever_the_memory_holds_later(padding, runtime):
    """Weights in bf16 and channels last: OpenVINO reads freed memory unless the copies that it needs are kept for it."""
    if runtime is BF16 and not has_bf16("cpu"):
        pytest.skip("this processor has no bf16")
    predictor = UNetLike(UNetConfig(2, 3, depth=2, filters=8, padding=padding, norm="batch"), runtime.precision)
    pixels = windows(3, 96, 80, 2)
    expected = answers(predictor, pixels, runtime)
    network = compile_network(predictor, (3, 2, 96, 80), runtime)
    junk = [torch.full((8, 8, 3, 3), 7.0) for _ in range(2000)]
    found = answers(network, pixels, runtime)
    assert len(junk) == 2000
    assert difference(expected, found) < (1e-5 if runtime is FP32 else TOLERANCE["bf16"])


@pytest.fixture(scope="module")
def compiled():
    return compile_network(Traceable(), (4, 1, 32, 32), FP32)


@needs_openvino
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(deadline=None, max_examples=20)
def test_a_window_has_the_same_bytes_in_every_batch(compiled, chosen):
    pixels = windows(6, 32, 32)
    alone = [answers(compiled, [one], FP32)[0] for one in pixels]
    together = answers(compiled, [pixels[i] for i in chosen], FP32)
    assert [one.tobytes() for one in together] == [alone[i].tobytes() for i in chosen]


@needs_openvino
def test_the_same_bytes_when_compiled_again_and_from_two_threads(compiled):
    pixels = windows(6, 32, 32)
    first = answers(compiled, pixels, FP32).tobytes()
    assert answers(compile_network(Traceable(), (1, 1, 32, 32), FP32), pixels, FP32).tobytes() == first
    with ThreadPoolExecutor(2) as pool:
        assert {one.tobytes() for one in pool.map(lambda _: answers(compiled, pixels, FP32), range(8))} == {first}


@needs_openvino
def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch):
    """OpenVINO then computes in fp32 and says nothing."""
    from i2i.backends import openvino as backend

    real = backend.load_openvino()
    silent = SimpleNamespace(get_property=lambda name: real.Type.f32)
    core = SimpleNamespace(compile_model=lambda *arguments: silent)
    fake = SimpleNamespace(Type=real.Type, PartialShape=real.PartialShape, convert_model=real.convert_model, Core=lambda: core)
    monkeypatch.setattr(backend, "load_openvino", lambda: fake)
    with pytest.raises(UsageError, match="--precision bf16: OpenVINO does not compute it"):
        compile_network(Traceable(), (1, 1, 32, 32), BF16)


@needs_openvino
def test_a_network_that_openvino_cannot_compile_is_left_to_torch(monkeypatch):
    from i2i.backends import openvino as backend

    def fail(*arguments):
        raise RuntimeError("Check failed\nsomewhere")

    real, core = backend.load_openvino(), SimpleNamespace(compile_model=fail)
    fake = SimpleNamespace(Type=real.Type, PartialShape=real.PartialShape, convert_model=real.convert_model, Core=lambda: core)
    monkeypatch.setattr(backend, "load_openvino", lambda: fake)
    notes = ["openvino is not used for this model: OpenVINO cannot compile Traceable: Check failed"]
    assert confirm_backend("auto", Traceable(), windows(1, 64, 64)[0], FP32) == ("torch", notes)


# ------------------------------------------------------------------------------------------------------------ confirming


@needs_openvino
def test_a_backend_that_agrees_is_confirmed_on_a_piece_of_the_window():
    seen = set()

    def extra(batch):
        seen.add(tuple(batch.shape))
        return torch.relu(batch)

    assert confirm_backend("auto", Plus(extra), windows(1, 300, 200)[0], FP32) == ("openvino", [])
    assert seen == {(1, 1, 76, 76)}, "two halos of 6 and a core of 64"
    seen.clear()
    assert confirm_backend("openvino", Plus(extra), windows(1, 300, 40)[0], FP32) == ("openvino", [])
    assert seen == {(1, 1, 76, 40)}


@needs_openvino
@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda batch: 0.01 * torch.compiler.is_exporting(), "differs from torch's by"),
        (lambda batch: torch.nan if torch.compiler.is_exporting() else 0.0, "differs from torch's by nan"),
        (lambda batch: batch / 0, "differs from torch's by nan"),
        (lambda batch: torch.from_numpy(batch.numpy()), "Plus cannot be traced"),
        (lambda batch: {False: 0.0}[torch.compiler.is_exporting()], "Plus cannot be traced"),
    ],
    ids=["another answer", "nan", "infinite", "not torch", "a bug"],
)
def test_a_backend_that_disagrees_is_given_up_with_a_note_or_refused(extra, reason):
    predictor, window = Plus(extra), windows(1, 64, 64)[0]
    backend, notes = confirm_backend("auto", predictor, window, FP32)
    assert backend == "torch"
    assert len(notes) == 1
    assert notes[0].startswith("openvino is not used for this model: ")
    assert reason in notes[0]
    assert "\n" not in notes[0]
    with pytest.raises(UsageError, match=f"--backend openvino: .*{reason}.*; use --backend torch"):
        confirm_backend("openvino", predictor, window, FP32)


@needs_openvino
def test_a_network_that_cannot_be_traced_is_a_plugin_error():
    with pytest.raises(PluginError, match="Plus cannot be traced for OpenVINO"):
        compile_network(Plus(lambda batch: batch.numpy()), (1, 1, 32, 32), FP32)


# -------------------------------------------------------------------------------------------- imports, and what is sent


def run(program: str, home) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": "", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)


def test_choosing_torch_imports_no_openvino(tmp_path):
    program = """
import sys
import i2i.cli
import i2i.backends
from tests.toys import Convolution
Convolution.traceable = True
i2i.backends.pick_backend("auto", Convolution(), "cpu", "fp32", 10)
i2i.backends.compile_network(Convolution(), (1, 1, 64, 64), i2i.backends.devices.Runtime())
assert not [name for name in sys.modules if name.split(".")[0].startswith("openvino")]
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_nothing_is_sent_and_nothing_is_left_in_the_home(tmp_path):
    program = """
import socket, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("SENT", event, file=sys.stderr)
        raise ConnectionRefusedError(event)
sys.addaudithook(refuse)
from i2i.backends import compile_network
from i2i.contracts import Runtime
from tests.toys import Convolution
Convolution.traceable = True
import torch
network = compile_network(Convolution(), (1, 1, 32, 32), Runtime("cpu", "fp32", "openvino"))
assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)
assert sys.modules["openvino_telemetry"] is None
assert "openvino_telemetry.main" not in sys.modules
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SENT" not in done.stderr
    assert not list(tmp_path.rglob("*openvino*"))


# ------------------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(monkeypatch, given):
    from i2i.backends.devices import configure_waiting

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, given[name]) if name in given else monkeypatch.delenv(name, raising=False)
    configure_waiting()
    found = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that what was set here is undone
    assert found == (given or {"GOMP_SPINCOUNT": "1000"})
