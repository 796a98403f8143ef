"""The commands beside the tasks: models, plugins, info, doctor, demo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from i2i.cli import console
from i2i.cli.generate import command, named, positional
from i2i.cli.streams import as_file
from i2i.contracts import ImageSpec, ModelCard
from i2i.errors import ModelError
from i2i.formats import detect, open_image
from i2i.formats.profiles import profile_name
from i2i.models import cached_path, fetch, open_model
from i2i.options import INPUT
from i2i.registry import Registry

_JSON = named("json_", ["--json"], bool, False, "as JSON on stdout", INPUT)
_MODEL_SUFFIXES = {".safetensors", ".pth", ".pt"}
_VERBOSE = named("verbose", ["-v", "--verbose"], bool, False, "tracebacks", INPUT)
Body = Callable[[Registry, Mapping[str, Any]], None]


def make(name: str, registry: Registry) -> typer.core.TyperCommand:
    """The command of that name."""
    summary, parts, body = _COMMANDS[name]
    return command(name.rsplit(maxsplit=1)[-1], summary, [*parts, _JSON, _VERBOSE], lambda values: body(registry, values))


# ------------------------------------------------------------------------------------------------------------- models


def _cards(registry: Registry) -> list[ModelCard]:
    cards = {(card.task, card.name): card for plugin in registry.all() for card in plugin.models}
    return [cards[key] for key in sorted(cards)]


def _card(registry: Registry, name: str) -> ModelCard:
    cards = _cards(registry)
    for card in cards:
        if card.name == name:
            return card
    raise ModelError(f"no model is named {name!r}; there are: {', '.join(card.name for card in cards) or 'none'}")


def _place(card: ModelCard) -> str:
    if card.file is not None:
        return "bundled"
    return "cached" if cached_path(card).exists() else "download"


def _models_list(registry: Registry, values: Mapping[str, Any]) -> None:
    cards = _cards(registry)
    if values["json_"]:
        console.put_json([asdict(card) | {"where": _place(card)} for card in cards])
        return
    rows = [["name", "task", "channels", "where", "licence", "summary"]]
    rows += [[c.name + (" *" if c.default else ""), c.task, str(c.channels), _place(c), c.licence, c.summary] for c in cards]
    console.put("\n".join(console.table(rows)))
    console.say("* used without --model for images of so many channels")


def _models_info(registry: Registry, values: Mapping[str, Any]) -> None:
    path = _as_file(registry, values["name"])
    if path:
        found = _settings(path)
    else:
        card = _card(registry, values["name"])
        found = asdict(card) | {"where": _place(card)}
    if values["json_"]:
        console.put_json(found)
    else:
        lines = _described(found | ({"size": console.size_text(found["size"])} if path else {}))
        console.put("\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines))


def _as_file(registry: Registry, name: str) -> Path | None:
    """The path that ``name`` is, if it is none of a model: as for ``--model``, a card's name comes before a file's."""
    path = Path(name)
    known = any(card.name == name for card in _cards(registry))
    return path if not known and (path.suffix in _MODEL_SUFFIXES or path.exists()) else None


def _settings(path: Path) -> dict[str, Any]:
    """What a model file says of itself; ``size`` in bytes. Raises ``ModelError`` for a file that is no model."""
    model = open_model(path)
    known = model.config or {"header": "none: weights alone, for a task that knows their names"}
    return {"file": str(path), "size": path.stat().st_size, "sha256": model.sha256, **known}


def _described(card: Mapping[str, Any], inner: bool = False) -> list[str]:
    """A line for each field that says something; those of a mapping are set in, and say no as well."""
    lines = []
    for name, value in card.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{name}:", *(f"  {line}" for line in _described(value, inner=True))]
        elif isinstance(value, bool):
            lines += [f"{name}: {'yes' if value else 'no'}"] if value or inner else []
        elif isinstance(value, list | tuple):
            lines += [f"{name}: {', '.join(map(str, value))}"] if value else []
        elif value is not None and value != "":
            lines.append(f"{name}: {value}")
    return lines


def _models_get(registry: Registry, values: Mapping[str, Any]) -> None:
    card = _card(registry, values["name"])
    path = fetch(card, console.Download(card.name))
    if values["json_"]:
        console.put_json({"name": card.name, "path": path, "sha256": card.sha256})
    else:
        console.put(str(path))


def _models_export(registry: Registry, values: Mapping[str, Any]) -> None:
    from i2i.exchange import export_model

    found = export_model(
        values["name"], values["output"], format=values["format"], overwrite=values["overwrite"], registry=registry
    )
    if values["json_"]:
        console.put_json(found)
        return
    sides = f"sides of multiples of {found['multiple_of']}"
    console.put(f"{found['output']}: {found['channels_in']} channels to {found['channels_out']}, {sides}")
    if found["difference"] is None:
        console.say("not checked: onnxruntime is not installed")
    else:
        console.say(f"checked by running it: differs from the model by {found['difference']:.1e} of its answers' range at most")


# ------------------------------------------------------------------------------------------------------------ plugins


def _plugins_list(registry: Registry, values: Mapping[str, Any]) -> None:
    plugins = registry.all()
    given = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "tasks": [task.name for task in plugin.tasks],
            "models": [card.name for card in plugin.models],
            "formats": [form.name for form in plugin.formats],
            "exporters": [exporter.name for exporter in plugin.exporters],
        }
        for plugin in plugins
    ]
    if values["json_"]:
        console.put_json({"plugins": given, "broken": [asdict(broken) for broken in registry.broken]})
    else:
        kinds = ("tasks", "models", "formats", "exporters")
        rows = [["plugin", "distribution", *kinds]]
        rows += [[p["name"], p["distribution"], *(", ".join(p[kind]) or "-" for kind in kinds)] for p in given]  # type: ignore[list-item]
        console.put("\n".join(console.table(rows)))
    tell_broken(registry)


def _plugins_check(registry: Registry, values: Mapping[str, Any]) -> None:
    good = registry.all()
    if values["json_"]:
        console.put_json({"good": [plugin.name for plugin in good], "broken": [asdict(broken) for broken in registry.broken]})
    else:
        for plugin in good:
            console.put(f"good    {plugin.name} of {plugin.distribution}")
        for broken in registry.broken:
            console.put(f"broken  {broken.name} of {broken.distribution}: {broken.reason}")
    raise typer.Exit(1 if registry.broken else 0)


def tell_broken(registry: Registry) -> None:
    """A warning for each plugin that turned out to be broken."""
    for broken in registry.broken:
        console.say(f"warning: the plugin {broken.name} of {broken.distribution} is broken and left out: {broken.reason}")


# --------------------------------------------------------------------------------------------------------------- info


def _info(registry: Registry, values: Mapping[str, Any]) -> None:
    formats = registry.formats()
    tell_broken(registry)
    with as_file(values["file"], formats) as path:
        source = open_image(path, formats)
        source.close()
        spec, form = source.spec, detect(path, formats)
    if values["json_"]:
        profile = profile_name(spec.profile) if spec.profile else None
        console.put_json({"file": values["file"], "format": form.name, **asdict(spec), "profile": profile})
        return
    lines = {
        "format": form.name,
        **({"name": spec.name} if spec.name else {}),
        "size": f"{spec.width} x {spec.height} pixels (width x height), {console.size_text(spec.bytes)} a plane",
        "channels": f"{spec.channels}{_KINDS[spec.rgb]}" + (f": {', '.join(spec.channel_names)}" * any(spec.channel_names)),
        **({"colours": f"ICC profile {profile_name(spec.profile)}"} if spec.profile else {}),
        "dtype": spec.dtype,
        "pixel size": f"{spec.pixel_size[1]:g} x {spec.pixel_size[0]:g} um (width x height)" if spec.pixel_size else "unknown",
        "planes": _planes_text(spec),
        "levels": ", ".join(f"{i}: {width} x {height}" for i, (height, width) in enumerate(spec.levels)) or "one",
        "tiling": f"{spec.tiling[1]} x {spec.tiling[0]}" if spec.tiling else "not stored in tiles or strips",
    }
    console.put("\n".join(f"{name:<11} {text}" for name, text in lines.items()))
    for note in (*spec.notes, *spec.remarks):
        console.say(f"note: {note}")


_KINDS = {True: " (RGB)", False: " (not RGB)", None: ""}


def _planes_text(spec: ImageSpec) -> str:
    units, steps = {"z": "um", "t": "s"}, dict(spec.steps)
    apart = {axis: f", {step:g} {units.get(axis, '')} apart" for axis, step in steps.items()}
    axes = ", ".join(f"{axis}: {length} (0 .. {length - 1}{apart.get(axis, '')})" for axis, length in spec.planes)
    return f"{spec.plane_count} along {axes}" if axes else "one"


# -------------------------------------------------------------------------------------------------- doctor, completion, demo


def _doctor(registry: Registry, values: Mapping[str, Any]) -> None:
    from i2i.cli.doctor import advice, facts

    found = facts(registry)
    told = advice(registry, found)
    if values["json_"]:
        console.put_json({"facts": found, "advice": told})
        return
    console.put("\n".join(f"{name:<11} {fact}" for name, fact in found.items()))
    console.put("\n".join(f"- {line}" for line in told) or "nothing to mend")


def _completion(registry: Registry, values: Mapping[str, Any]) -> None:
    from i2i.cli.completion import script

    text = script(values["shell"])
    if values["json_"]:
        console.put_json({"shell": values["shell"], "script": text})
    else:
        console.put(text)


def _demo(registry: Registry, values: Mapping[str, Any]) -> None:
    from i2i.cli.demo import run_demo

    page = run_demo(registry, Path(values["folder"] or "i2i-demo"))
    if values["json_"]:
        console.put_json(page)


_NAME = positional("name", str, "the model's name, from i2i models list", "NAME")
_NAME_OR_FILE = positional("name", str, "the model's name, from i2i models list, or a file", "NAME_OR_PATH")
_FILE = positional("file", str, "an image, or - for stdin", "FILE")
_SHELL = positional("shell", str, "bash, zsh, fish or powershell", "SHELL")
_FOLDER = positional("folder", str, "the folder for the results (default: i2i-demo)", "FOLDER", default="")

_EXPORTED = named("output", ["-o", "--output"], str, ..., "the file to write, .onnx, .pt or .ts", INPUT, "FILE")
_FORMAT = named("format", ["--format"], str, "", "onnx or torchscript (default: by the file's name)", INPUT, "NAME")
_OVERWRITE = named("overwrite", ["--overwrite"], bool, False, "replace an existing file", INPUT)

_COMMANDS: dict[str, tuple[str, list[Any], Body]] = {
    "models list": ("The models by task", [], _models_list),
    "models info": ("The card of a model, or what a model file says of itself", [_NAME_OR_FILE], _models_info),
    "models get": ("Fetch a model into the cache, for use offline", [_NAME], _models_get),
    "models export": (
        "A model's network as an ONNX or TorchScript file, for other programs",
        [_NAME_OR_FILE, _EXPORTED, _FORMAT, _OVERWRITE],
        _models_export,
    ),
    "plugins list": ("The plugins and what each gives", [], _plugins_list),
    "plugins check": ("Load every plugin; name those that are broken", [], _plugins_check),
    "info": ("What i2i sees in an image", [_FILE], _info),
    "doctor": ("What is there, and what would help", [], _doctor),
    "completion": ('What a shell reads to complete i2i\'s words: eval "$(i2i completion bash)"', [_SHELL], _completion),
    "demo": ("Every task on bundled real input, and an HTML page that shows the results", [_FOLDER], _demo),
}
