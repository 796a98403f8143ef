"""Give a picture the style of others (neural style transfer).

A plugin like anyone's: it is found by its entry point, and imports torch only when a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import i2i
from i2i.contracts import Demo, Exporter, Model, ModelCard, Predictor, Runtime, Task, Training, TrainingRun
from i2i.errors import ModelError, UsageError
from i2i.options import changed, flag_of
from i2i_style.animation import ANIMATE
from i2i_style.options import OF_GATYS, StylizeOptions
from i2i_style.train_options import TrainOptions

I2I_API = 1
_HERE = Path(__file__).parent


def _load(options: StylizeOptions, model: Model | None, runtime: Runtime) -> Predictor:
    from i2i_style import gatys

    kind = model.config.get("kind") if model else None
    if not (options.fast or kind == "decoder"):
        _refuse_strength(options)
    if not (options.fast or model):
        return gatys.load(options, runtime)
    _refuse_options_of_gatys(options, "--model" if model else "--fast")
    if model is None or kind == "decoder":
        from i2i_style.fast import load

        return load(options, model, runtime)
    if kind != "transfer":
        cure = "give it with --encoder" if kind == "encoder" or not model.config else "make one with i2i train stylize"
        raise ModelError(f"{model.path}: no network that stylizes; {cure}")
    from i2i_style.feedforward import load_transfer

    return load_transfer(model, options, runtime)


def _refuse_options_of_gatys(options: StylizeOptions, method: str) -> None:
    """Raises ``UsageError`` for what only the optimisation knows: nothing that was asked for is left out in silence."""
    from dataclasses import fields

    given = changed(options, OF_GATYS)
    if given:
        flags = {item.name: flag_of(item) for item in fields(StylizeOptions)}
        raise UsageError(f"{flags[given[0]]}: belongs to the method that optimises the picture; leave it out, or {method}")


def _refuse_strength(options: StylizeOptions) -> None:
    """Raises ``UsageError``: the style's strength is an option of ``--fast``."""
    if changed(options, ("strength",)):
        raise UsageError("--strength: belongs to --fast; without it, --alpha and --beta weigh content and style")


def _train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    from i2i_style.train import train

    return train(options, run)


def _files(options: StylizeOptions) -> Sequence[Path]:
    """The pictures and weights that the options name."""
    from i2i_style.files import files

    return files(options)


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    return [
        Task(
            name="stylize",
            summary="Give a picture the style of others (neural style transfer)",
            options=StylizeOptions,
            load=_load,
            train=Training(TrainOptions, _train),
            needs_model=False,
            lossy=True,
            demos=(
                Demo("An astronaut as van Gogh's Starry Night", _HERE / "samples/astronaut.jpg",
                     {"style": [str(_HERE / "samples/starry_night.jpg")], "size": "256"}),
                Demo("An astronaut as Hokusai's Great Wave, in one pass", _HERE / "samples/astronaut.jpg",
                     {"style": [str(_HERE / "samples/great_wave.jpg")], "fast": True}),
            ),
            files=_files,
            meanings=("image",),
            precisions=("fp32", "bf16"),
        )
    ]  # fmt: skip


@i2i.hookimpl
def i2i_models() -> list[ModelCard]:
    return [ModelCard.from_toml(path) for path in sorted((_HERE / "models").glob("*.toml"))]


@i2i.hookimpl
def i2i_exporters() -> list[Exporter]:
    return [ANIMATE]
