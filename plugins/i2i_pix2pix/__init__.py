"""Translate images into others, learnt from pairs (pix2pix).

A plugin like anyone's: it is found by its entry point, and imports torch only when a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import i2i
from i2i.contracts import Compared, Demo, Evaluation, Model, ModelCard, Predictor, Runtime, Task, Training, TrainingRun
from i2i.errors import ModelError
from i2i_pix2pix.options import EvalOptions, TrainOptions, TranslateOptions

I2I_API = 1
_HERE = Path(__file__).parent


def _load(options: TranslateOptions, model: Model | None, runtime: Runtime) -> Predictor:
    from i2i_pix2pix import predictor

    if model is None:
        raise ModelError("translate needs a model: give one with --model; i2i train translate makes them")
    return predictor.load(model, runtime, options)


def _train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    from i2i_pix2pix.train import train

    return train(options, run)


def _measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    from i2i_pix2pix.evaluate import measure

    return measure(case, options)


def _pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    from i2i_pix2pix.evaluate import pool

    return pool(figures)


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    return [
        Task(
            name="translate",
            summary="Translate an image into another, as learnt from pairs (pix2pix)",
            options=TranslateOptions,
            load=_load,
            train=Training(TrainOptions, _train),
            evaluate=Evaluation(EvalOptions, _measure, _pool),
            lossy=True,
            meanings=("image",),
            demos=(Demo("Noisy fluorescence, cleaned", _HERE / "samples/noisy.png"),),
            results=lambda options: max(1, options.samples),
        )
    ]


@i2i.hookimpl
def i2i_models() -> list[ModelCard]:
    return [ModelCard.from_toml(path) for path in sorted((_HERE / "models").glob("*.toml"))]
