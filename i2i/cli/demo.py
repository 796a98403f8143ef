"""``i2i demo``: every task that has bundled input, and a page that shows the results."""

from __future__ import annotations

import base64
import html
import io
import time
from pathlib import Path
from typing import Any

from i2i import api, batch
from i2i.cli import console
from i2i.contracts import Demo, Task
from i2i.errors import PluginError
from i2i.files import replacing
from i2i.publish import make_folder
from i2i.registry import Registry
from i2i.report import RunReport

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "figure{margin:2rem 0}img{max-width:100%;height:auto;border:1px solid #ccc}figcaption{color:#555}"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}"
    "code{background:#f3f3f3;padding:.1em .3em}"
)


def run_demo(registry: Registry, folder: Path) -> dict[str, Any]:
    """Run every demo of every task into ``folder`` and write ``index.html`` there. Returns the paths and the seconds."""
    started = time.monotonic()
    make_folder(folder)
    figures, pictures = [], []
    for name in registry.tasks:
        try:
            task = registry.task(name)
        except PluginError as error:
            console.say(f"warning: {error}")
            continue
        for number, demo in enumerate(task.demos):
            same = sum(other.input == demo.input for other in task.demos[:number])
            report = _run(registry, task, demo, folder, f"-{same + 1}" if same else "")
            pictures.append(report.output)
            figures.append(_figure(task, demo, report))
    page = folder / "index.html"
    with replacing(page) as temporary:
        temporary.write_text(_page(figures), encoding="utf-8")
    seconds = time.monotonic() - started
    console.say(f"demo: {console.counted(len(figures), 'picture')} in {console.seconds_text(seconds)}; open {page}")
    return {"page": str(page), "pictures": pictures, "seconds": round(seconds, 1)}


def _run(registry: Registry, task: Task, demo: Demo, folder: Path, mark: str) -> RunReport:
    """``mark``: at the end of the output's name, where the same input was used before."""
    name = f"{demo.input.stem}-{task.name}{mark}"
    output = folder / f"{name}.png"
    values = {"overwrite": True, **demo.options}
    current = api.session(task.name, values, registry)
    exports = {"overlay": str(folder / f"{name}-overlay.png")}
    (item,) = batch.plan_items(current, [str(demo.input)], str(output), exports)
    report = current.process(item)
    console.say(console.describe(report))
    return report


def _figure(task: Task, demo: Demo, report: RunReport) -> str:
    found = "" if report.objects is None else f"{report.objects} objects. "
    words = f"{found}{sum(report.seconds.values()):.1f} s with {report.model}."
    files = f"-o {Path(report.output).name} --overlay {Path(report.exports['overlay']).name}"
    line = " ".join([f"i2i {task.name} {demo.input.name}", *_words(demo), files])
    before, after = _embed(demo.input), _embed(Path(report.exports["overlay"]))
    return (
        f'<figure><h2>{html.escape(demo.title)}</h2><div class="pair"><img src="{before}" alt="input"><img src="{after}" '
        f'alt="result"></div><figcaption>{html.escape(words)}<br><code>{html.escape(line)}</code></figcaption></figure>'
    )


def _words(demo: Demo) -> list[str]:
    """Its options as they are given on the command line, files by their names."""
    found = []
    for name, value in demo.options.items():
        flag = "--" + name.replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            found.append(flag if one is True else f"{flag} {Path(one).name if isinstance(one, str) else one}")
    return found


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


def _page(figures: list[str]) -> str:
    body = "".join(figures) or "<p>No installed task has a demo.</p>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>i2i demo</title><style>{_STYLE}</style></head>'
        f"<body><h1>i2i demo</h1>{body}</body></html>\n"
    )
