"""``i2i demo``: every task that has bundled input, and a page that shows the results."""

from __future__ import annotations

import base64
import html
import io
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i import api, batch
from i2i.cli import console
from i2i.cli.progress import Progress
from i2i.contracts import Demo, Task
from i2i.errors import OutputError, PluginError
from i2i.files import replacing
from i2i.publish import make_folder
from i2i.registry import Registry
from i2i.report import RunReport
from i2i.version import __version__

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "section{margin:2.5rem 0}h2{margin:0 0 .5rem;font-size:1.25rem}figure{margin:0}figcaption,p{color:#555}"
    ".row{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:1rem;align-items:start}"
    "img{width:100%;height:auto;border:1px solid #ccc}pre{background:#f3f3f3;padding:.5em .7em;white-space:pre-wrap}"
)


@dataclass(frozen=True)
class Shown:
    """A demo whose files lie in the folder of the results: ``task``, its input there, and the options with their files there.
    ``name``: of the result, without a suffix."""

    task: Task
    title: str
    input: Path
    options: Mapping[str, Any]
    name: str

    @property
    def output(self) -> Path:
        return self.input.with_name(f"{self.name}.png")

    @property
    def overlay(self) -> Path | None:
        """The result drawn over the input; of a task that gives pictures the result speaks for itself."""
        return None if self.task.meanings == ("image",) else self.input.with_name(f"{self.name}-overlay.png")

    @property
    def styles(self) -> list[Path]:
        """The further pictures that its options name."""
        return [Path(value) for value in _values(self.options) if isinstance(value, str) and Path(value).is_file()]


def run_demo(registry: Registry, folder: Path) -> dict[str, Any]:
    """Run every demo of every task into ``folder`` and write ``index.html`` there. Returns the paths and the seconds."""
    started = time.monotonic()
    make_folder(folder)
    shown = [_brought(task, number, folder) for task in _tasks(registry) for number in range(len(task.demos))]
    sections, pictures = [], []
    with Progress(len(shown)) as progress:
        for one in shown:
            report = _run(registry, one, progress)
            pictures.append(report.output)
            sections.append(_section(one, report))
    page, seconds = folder / "index.html", time.monotonic() - started
    with replacing(page) as temporary:
        temporary.write_text(_page(sections, seconds), encoding="utf-8")
    console.say(f"demo: {console.counted(len(shown), 'picture')} in {console.seconds_text(seconds)}; open {page} in a browser")
    return {"page": str(page), "pictures": pictures, "seconds": round(seconds, 1)}


def _tasks(registry: Registry) -> Iterator[Task]:
    """Those that work; a warning for the others."""
    for name in registry.tasks:
        try:
            yield registry.task(name)
        except PluginError as error:
            console.say(f"warning: {error}")


def _brought(task: Task, number: int, folder: Path) -> Shown:
    """A demo of a task, with copies of its files in the folder, so that its line can be repeated there."""
    demo: Demo = task.demos[number]
    same = sum(other.input == demo.input for other in task.demos[:number])
    name = f"{demo.input.stem}-{task.name}" + (f"-{same + 1}" if same else "")
    options = {key: _with_copies(value, folder) for key, value in demo.options.items()}
    return Shown(task, demo.title, _copied(demo.input, folder), options, name)


def _with_copies(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_with_copies(one, folder) for one in value]
    return str(_copied(Path(value), folder)) if isinstance(value, str) and Path(value).is_file() else value


def _copied(path: Path, folder: Path) -> Path:
    """Raises ``OutputError``."""
    target = folder / path.name
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}; choose another folder") from error
    return target


def _run(registry: Registry, one: Shown, progress: Progress) -> RunReport:
    current = api.session(one.task.name, {"overwrite": True, **one.options}, registry)
    exports = {"overlay": str(one.overlay)} if one.overlay else {}
    (item,) = batch.plan_items(current, [str(one.input)], str(one.output), exports)
    report = current.process(item, progress.of(item))
    progress.finished(report)
    return report


# --------------------------------------------------------------------------------------------------------------- page


def _section(one: Shown, report: RunReport) -> str:
    pictures = [("input", one.input), *(("with", path) for path in one.styles), ("result", one.overlay or one.output)]
    row = "".join(_figure(f"{word}: {path.name}" if word != "result" else word, path) for word, path in pictures)
    found = "" if report.objects is None else f"{console.counted(report.objects, 'object')}, "
    took = f"{found}{console.seconds_text(sum(report.seconds.values()))} with {report.model}"
    return (
        f'<section><h2>{html.escape(one.title)}</h2><div class="row">{row}</div>'
        f"<pre>{html.escape(_line(one))}</pre><p>{html.escape(took)}</p></section>"
    )


def _figure(words: str, path: Path) -> str:
    text = html.escape(words)
    return f'<figure><img src="{_embed(path)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _line(one: Shown) -> str:
    """The command that gives the result, in the folder of the results."""
    words = [f"i2i {one.task.name} {one.input.name}"]
    for name, value in one.options.items():
        flag = "--" + name.replace("_", "-")
        words += [flag if part is True else f"{flag} {_word(part)}" for part in (value if isinstance(value, list) else [value])]
    words.append(f"-o {one.output.name}")
    return " ".join([*words, *([f"--overlay {one.overlay.name}"] if one.overlay else []), "--overwrite"])


def _values(options: Mapping[str, Any]) -> Iterator[Any]:
    for value in options.values():
        yield from value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    """A file by its name, anything else as it is."""
    return Path(value).name if isinstance(value, str) and Path(value).is_file() else str(value)


def _embed(path: Path) -> str:
    """The picture as a data URL, stretched to the range of a screen, at most 2048 pixels a side."""
    from PIL import Image

    from i2i.exporters.overlay import LONGEST, reduced
    from i2i.formats import open_image
    from i2i.pictures import picture_of

    source = open_image(path)
    factor = -(-max(source.spec.height, source.spec.width) // LONGEST)
    stream = io.BytesIO()
    Image.fromarray(picture_of(reduced(source, factor, mean=True))).save(stream, format="PNG")
    source.close()
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _page(sections: list[str], seconds: float) -> str:
    about = (
        f"<p>What i2i {__version__} made of bundled pictures in {console.seconds_text(seconds)} on this machine. The line below "
        "each row makes its result again, in the folder of this page.</p>"
    )
    body = about + "".join(sections) if sections else "<p>No installed task has a demo.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>i2i demo</title><style>{_STYLE}</style></head><body><h1>i2i demo</h1>{body}</body></html>\n"
    )
