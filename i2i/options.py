"""Options as frozen dataclasses: the command line is made from them, and the API takes them as they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from i2i.errors import UsageError

T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: Sequence[str] = (),
    panel: str = "Options",
    flag: str = "",
    metavar: str = "",
    minimum: float | None = None,
) -> Any:
    """A field of an options dataclass. Without a default the option is required. ``flag``: its name on the command line,
    where that is not the field's; ``minimum``: the least number allowed."""
    metadata = {
        "help": help, "choices": tuple(choices), "panel": panel, "flag": flag, "metavar": metavar, "minimum": minimum,
    }  # fmt: skip
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(item: dataclasses.Field[Any]) -> str:
    """The option's name on the command line."""
    return item.metadata.get("flag") or "--" + item.name.replace("_", "-")


def make(options: type[T], values: Mapping[str, Any]) -> T:
    """An instance of an options dataclass from plain values; a text stands for a list of one. Raises ``UsageError`` for an
    unknown name, a missing one, a value that is none of the choices or below the minimum."""
    fields = {item.name: item for item in dataclasses.fields(options)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; there are: {', '.join(sorted(fields))}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and values.get(name) is None:
            raise UsageError(f"{flag_of(item)} is required")
    hints = get_type_hints(options)
    checked = {name: _checked(fields[name], hints[name], value) for name, value in values.items()}
    return options(**checked)


def _checked(item: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    choices, minimum = item.metadata.get("choices"), item.metadata.get("minimum")
    kinds = _plain_types(hint)
    if kinds == (list,) and isinstance(value, str):
        value = [value] if value else []
    if value is not None and kinds and not isinstance(value, kinds):
        raise UsageError(f"{flag_of(item)} {value!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
    for one in value if isinstance(value, list) else [value]:
        if choices and one is not None and str(one) not in choices:
            raise UsageError(f"{flag_of(item)} {one}: choose one of {', '.join(choices)}")
        if isinstance(one, float) and not math.isfinite(one):
            raise UsageError(f"{flag_of(item)} {one}: give a finite number")
        if minimum is not None and one is not None and one < minimum:
            raise UsageError(f"{flag_of(item)} {one}: must be at least {minimum:g}")
    return value


def _plain_types(hint: Any) -> tuple[type, ...]:
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if get_origin(hint) is not list else (list,)) or (hint,))
    plain = tuple(kind for kind in kinds if kind in (bool, int, float, str, list))
    if len(plain) < len([kind for kind in kinds if kind is not type(None)]):
        return ()
    return (*plain, int) if float in plain else plain


INPUT = "Input and output"
MODEL = "Model and device"
TILING = "Tiling"
ADVANCED = "Advanced"


MEASURES = ("shape", "intensity")


@dataclass(frozen=True)
class RunOptions:
    """What every image command has."""

    as_: str = option("", flag="--as", help="kind of result: classes, probabilities, labels ...", panel=INPUT, metavar="KIND")
    format: str = option("", help="of outputs without -o FILE, and on stdout: png, tif ...", panel=INPUT, metavar="NAME")
    overwrite: bool = option(False, help="replace existing outputs", panel=INPUT)
    skip_existing: bool = option(False, help="pass over inputs whose output is complete", panel=INPUT)
    resume: bool = option(False, help="go on with a killed run", panel=INPUT)
    dry_run: bool = option(False, help="print the plan, do nothing", panel=INPUT)
    level: int = option(0, help="level of a pyramid, 0 is full resolution", panel=INPUT, minimum=0)
    series: str = option("", help="which image of a TIFF that holds several, from 0", panel=INPUT, metavar="N")
    plane: str = option("", help="which planes, such as z=3,t=* or z=2-5 (default: all)", panel=INPUT)
    channels: str = option("", help="which channels, by index or name: 0,2", panel=INPUT)
    measure: str = option(
        "", help="further columns of --csv: shape, intensity (of every channel), or both", panel=INPUT, metavar="shape,intensity"
    )
    nan: str = option("error", help="what NaN and Inf in the input become", choices=("zero", "error"), panel=INPUT)
    pixel_size: float = option(
        0.0, help="the input's, in micrometres, if its metadata lack it", panel=INPUT, metavar="UM", minimum=0
    )
    compression: str = option(
        "auto", help="of the output: auto, zlib, zstd, lzw, jpeg, none", choices=("auto", "zlib", "zstd", "lzw", "jpeg", "none"),
        panel=INPUT, metavar="NAME",
    )  # fmt: skip
    strict: bool = option(False, help="warnings become errors", panel=INPUT)
    model: list[str] = option(  # noqa: RUF009 (it makes a field)
        [], help="by name, or a file; of several, the mean (default: fits the input)", panel=MODEL, metavar="NAME_OR_PATH"
    )
    device: str = option("auto", help="where to compute", panel=MODEL, metavar="auto|cpu|cuda[:N]|mps")
    precision: str = option("auto", help="number format", choices=("auto", "fp32", "bf16", "fp16"), panel=MODEL)
    backend: str = option("auto", help="what runs the network", choices=("auto", "torch", "openvino"), panel=MODEL)
    tile: str = option("auto", help="side of the window that the network sees, in pixels", panel=TILING, metavar="auto|N")
    memory: str = option("auto", help="budget of the whole process, such as 2GB (default: half)", panel=TILING, metavar="SIZE")
    batch: str = option("auto", help="tiles in a batch", panel=TILING, metavar="auto|N")
    jobs: int = option(1, help="inputs side by side", panel=TILING, minimum=1)
    verify: int = option(0, help="recompute N windows in another tiling and compare", panel=ADVANCED, minimum=0)
    seed: int = option(0, help="of everything random", panel=ADVANCED, minimum=0)


def measured(text: str) -> tuple[str, ...]:
    """What ``--measure`` names. Raises ``UsageError``."""
    names = tuple(filter(None, (part.strip() for part in text.split(","))))
    if wrong := [name for name in names if name not in MEASURES]:
        raise UsageError(f"--measure {text}: {wrong[0]} is none of {', '.join(MEASURES)}")
    return names


def merge(*options: Any) -> dict[str, Any]:
    """The values of several option instances by field name."""
    return {item.name: getattr(one, item.name) for one in options for item in dataclasses.fields(one)}


def changed(options: Any, names: Sequence[str]) -> list[str]:
    """Those of the fields of an options dataclass that are not at their defaults."""
    items = {item.name: item for item in dataclasses.fields(options)}

    def default(item: dataclasses.Field[Any]) -> Any:
        return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()

    return [name for name in names if getattr(options, name) != default(items[name])]


def given(*options: Any) -> dict[str, Any]:
    """The values of options dataclasses that are not the defaults, by the names that ``--config`` has for them."""
    items = ((one, item) for one in options for item in dataclasses.fields(one))
    return {flag_of(item).removeprefix("--"): getattr(one, item.name) for one, item in items if changed(one, [item.name])}


DATA = "Data"
NETWORK = "Network"
LOSS = "Loss"
SCHEDULE = "Training"
AUGMENTATION = "Augmentation"


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How long and how fast a network learns: what the training of any task has."""

    steps: int = option(2000, help="batches to train on; --resume with more goes on longer", panel=SCHEDULE, minimum=1)
    batch: int = option(8, help="crops in a batch, of all processes together", panel=SCHEDULE, minimum=1)
    crop: int = option(256, help="side of a crop in pixels", panel=SCHEDULE, minimum=16)
    rate: float = option(1e-3, help="largest learning rate", panel=SCHEDULE, minimum=0)
    optimizer: str = option("adamw", help="sgd is the papers'", choices=("adamw", "sgd"), panel=SCHEDULE)
    momentum: float = option(0.9, help="of sgd", panel=SCHEDULE, minimum=0)
    weight_decay: float = option(1e-4, help="pull of the weights to 0", panel=SCHEDULE, minimum=0)
    schedule: str = option(
        "cosine", help="of the learning rate", choices=("cosine", "poly", "step", "constant", "linear"), panel=SCHEDULE
    )
    warmup: int = option(100, help="steps until the learning rate is reached", panel=SCHEDULE, minimum=0)
    average: float = option(0.995, help="decay of the average of weights that is kept; 0: none", panel=SCHEDULE, minimum=0)
    patience: int = option(
        0, help="stop after N validations in a row without a better one (default: never)", panel=SCHEDULE, minimum=0
    )
    validate_every: int = option(250, help="steps between validations and checkpoints", panel=SCHEDULE, minimum=1)
    samples: int = option(4, help="validation images on the PNG of each validation; 0: none", panel=SCHEDULE, minimum=0)


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What images and masks are, for the training on pairs of them."""

    mask_suffix: str = option(
        "", help="what the names of masks end in, such as _masks; they may lie among the images", panel=DATA, metavar="TEXT"
    )
    channels: str = option("", help="which channels of the images, by index or name: 0,2 (default: all)", panel=DATA)
    pixel_size: float = option(
        0.0,
        help="the images', in micrometres, told to the model (default: as all of them say)",
        panel=DATA,
        metavar="UM",
        minimum=0,
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """How crops are varied: the fields of :class:`i2i.data.Augmentation`, and whether at all."""

    augment: bool = option(True, help="vary the crops, as the options below say", panel=AUGMENTATION)
    shift: bool = option(True, help="crops anywhere, not only side by side", panel=AUGMENTATION)
    flip: bool = option(True, help="mirror along both axes", panel=AUGMENTATION)
    rotate: float = option(180.0, help="either way, up to this angle; 0: off", panel=AUGMENTATION, metavar="DEGREES", minimum=0)
    scale: float = option(1.4, help="smaller or larger, up to this factor; 1: off", panel=AUGMENTATION, minimum=1)
    elastic: float = option(
        6.0, help="deformation: sigma of the displacements on a 3x3 grid; 0: off", panel=AUGMENTATION, metavar="PIXELS", minimum=0
    )
    gray: float = option(0.15, help="sigma of contrast, brightness and gamma; 0: off", panel=AUGMENTATION, minimum=0)
    noise: float = option(0.05, help="largest sigma of noise, in normalised gray values; 0: off", panel=AUGMENTATION, minimum=0)
    blur: float = option(1.0, help="largest sigma of blur; 0: off", panel=AUGMENTATION, metavar="PIXELS", minimum=0)
