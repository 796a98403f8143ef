"""Options as frozen dataclasses: the command line is made from them, and the API takes them as they are."""

from __future__ import annotations

import dataclasses
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


@dataclass(frozen=True)
class RunOptions:
    """What every image command has."""

    as_: str = option("", flag="--as", help="kind of result, such as classes, probabilities, labels", panel=INPUT, metavar="KIND")
    format: str = option("", help="format of outputs named here, and on stdout: png, tif ...", panel=INPUT, metavar="NAME")
    overwrite: bool = option(False, help="replace existing outputs", panel=INPUT)
    skip_existing: bool = option(False, help="leave inputs alone whose output is complete", panel=INPUT)
    resume: bool = option(False, help="go on with a killed run", panel=INPUT)
    dry_run: bool = option(False, help="print the plan, do nothing", panel=INPUT)
    level: int = option(0, help="level of a pyramid, 0 is full resolution", panel=INPUT, minimum=0)
    plane: str = option("", help="which planes, such as z=3,t=* or z=2-5 (default: all)", panel=INPUT)
    channels: str = option("", help="which channels, by index or name: 0,2", panel=INPUT)
    nan: str = option("error", help="what NaN and Inf in the input become", choices=("zero", "error"), panel=INPUT)
    pixel_size: float = option(
        0.0, help="pixel size of the input, if its metadata lack it, in micrometres", panel=INPUT, metavar="UM", minimum=0
    )
    compression: str = option("auto", help="of the output", choices=("auto", "zlib", "zstd", "lzw", "jpeg", "none"), panel=INPUT)
    strict: bool = option(False, help="warnings become errors", panel=INPUT)
    model: list[str] = option(  # noqa: RUF009 (it makes a field)
        [], help="a model by name or a file (default: fits the input); of several, the mean", panel=MODEL, metavar="NAME_OR_PATH"
    )
    device: str = option("auto", help="where to compute", panel=MODEL, metavar="auto|cpu|cuda[:N]|mps")
    precision: str = option("auto", help="number format", choices=("auto", "fp32", "bf16", "fp16"), panel=MODEL)
    backend: str = option("auto", help="what runs the network", choices=("auto", "torch", "openvino"), panel=MODEL)
    tile: str = option("auto", help="side of the window that the network sees, in pixels", panel=TILING, metavar="auto|N")
    memory: str = option(
        "auto", help="budget for the whole process, such as 2GB (default: half of the machine's)", panel=TILING, metavar="SIZE"
    )
    batch: str = option("auto", help="tiles in a batch", panel=TILING, metavar="auto|N")
    jobs: int = option(1, help="inputs side by side", panel=TILING, minimum=1)
    verify: int = option(0, help="recompute N windows in another tiling and compare", panel=ADVANCED, minimum=0)
    seed: int = option(0, help="of everything random", panel=ADVANCED, minimum=0)


def merge(*options: Any) -> dict[str, Any]:
    """The values of several option instances by field name."""
    return {item.name: getattr(one, item.name) for one in options for item in dataclasses.fields(one)}
