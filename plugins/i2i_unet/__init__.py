"""Segment an image into classes, probabilities or labelled objects (U-Net).

A plugin like anyone's: it is found by its entry point, and imports torch only when a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import i2i
from i2i.contracts import Compared, Demo, Evaluation, Model, ModelCard, Runtime, Task, Training, TrainingRun
from i2i.errors import ModelError
from i2i_unet.options import HEADLINE, EvalOptions, SegmentOptions, TrainOptions

if TYPE_CHECKING:
    from i2i_unet.predictor import UNetPredictor

I2I_API = 1
_HERE = Path(__file__).parent


def _load(options: SegmentOptions, model: Model | None, runtime: Runtime) -> UNetPredictor:
    from i2i_unet import predictor

    if model is None:
        raise ModelError("segment needs a model: give one with --model")
    return predictor.load(model, runtime, options)


def _join(predictors: Sequence[Any]) -> UNetPredictor:
    from i2i_unet import predictor

    return predictor.join(predictors)


def _train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    from i2i_unet.train import train

    return train(options, run)


def _measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    from i2i_unet.evaluate import measure

    return measure(case, options)


def _pool(figures: Any) -> Mapping[str, float]:
    from i2i_unet.evaluate import pool

    return pool(figures)


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    return [
        Task(
            name="segment",
            summary="Segment an image into classes, probabilities or labelled objects (U-Net)",
            options=SegmentOptions,
            load=_load,
            join=_join,
            train=Training(TrainOptions, _train),
            evaluate=Evaluation(EvalOptions, _measure, _pool, HEADLINE),
            demos=(
                Demo("A dense field of nuclei", _HERE / "samples/nuclei-dense.png"),
                Demo("Nuclei in fluorescence", _HERE / "samples/nuclei.png"),
                Demo("Nuclei in stained tissue", _HERE / "samples_brightfield/tissue.png"),
            ),
        )
    ]


@i2i.hookimpl
def i2i_models() -> list[ModelCard]:
    return [ModelCard.from_toml(path) for path in sorted((_HERE / "models").glob("*.toml"))]
