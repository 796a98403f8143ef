"""How the tests call the program: in this process, in an empty folder, mostly with a tiny network; or as a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from i2i.cli.app import _run
from tests.cli.kit import Result


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one; no network, a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2I_OFFLINE", "1")
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def i2i(capsysbinary, monkeypatch):
    """Call the program: ``i2i("segment", "a.png")``."""

    def call(*words, stdin=b""):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        words = [str(word) for word in words]
        capsysbinary.readouterr()
        code = _run(words, "-v" in words)
        captured = capsysbinary.readouterr()
        return Result(code, captured.out, captured.err.decode())

    return call


@pytest.fixture
def segment(i2i, model):
    """``i2i segment`` with the tiny network, in fp32."""

    def call(*words, **settings):
        return i2i("segment", "--model", model, "--precision", "fp32", *words, **settings)

    return call


@pytest.fixture
def process(folder):
    """Call the program in a process of its own; ``before`` is Python that it runs first."""

    def start(*words, before="", **settings):
        program = f"import sys\n{before}\nfrom i2i.cli import main\nmain({[str(word) for word in words]!r})"
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        return subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=folder, **pipes)

    return start


def tiny_network(channels: int = 1, depth: int = 2, **changes):
    """Header and weights of a He-initialised U-Net, the same each time."""
    import torch

    from i2i_unet.network import UNet, UNetConfig
    from i2i_unet.targets import CLASS_NAMES, LABEL_RULE

    torch.manual_seed(3)
    config = UNetConfig(channels, classes=3, depth=depth, filters=4)
    header = {
        "task": "segment",
        "network": config.as_mapping(),
        "normalization": {"method": "percentile"},
        "class_names": list(CLASS_NAMES),
        "label_rule": asdict(LABEL_RULE),
    }
    return header | changes, UNet(config).state_dict()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of small models: ``grey``, ``rgb``, ``other`` (of another task), ``wrong`` (its weights fit another network)."""
    from i2i.models import save_model

    folder = tmp_path_factory.mktemp("models")
    networks = {
        "grey": tiny_network(),
        "rgb": tiny_network(channels=3),
        "other": tiny_network(task="translate"),
        "wrong": (tiny_network(depth=1)[0], tiny_network(depth=2)[1]),
    }
    for name, (header, weights) in networks.items():
        save_model(folder / f"{name}.safetensors", weights, header)
    return folder


@pytest.fixture(scope="session")
def model(models):
    """A U-Net for one channel, two levels, four filters: its labels are many and mean nothing."""
    return models / "grey.safetensors"
