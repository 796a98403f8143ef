"""The documents as a site, in build/site. A warning, such as a link to nowhere, is an error.

python .ci/site.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, SITE = ROOT / "build/site-source", ROOT / "build/site"
STYLE = """\
@media (min-width: 63em) { .content { width: min(60em, calc(100vw - 19em)); } }
@media (min-width: 82em) { .content { width: min(60em, calc(100vw - 34em)); } }
.highlight pre { font-size: 0.75rem; }
table.docutils { width: 100%; }
code.literal .pre { white-space: nowrap; }
table.docutils td:first-child img { max-width: min(24rem, 40vw); max-height: 11rem; }
"""
"""Lines of code and tables have room beside the menus."""
PAGES = {
    "Begin": ("quickstart",),
    "Tasks": ("segmentation", "instances", "style", "translation"),
    "Use": ("big-images", "formats", "reliability", "python", "cli"),
    "Models and plugins of your own": ("training", "plugins", "contracts"),
    "Background": ("papers", "benchmarks", "architecture", "decisions"),
}
"""All pages but the first, by their part of the menu."""


def linked(text: str, titles: dict[str, str]) -> str:
    """`docs/style.md` becomes a link to that page, by its title."""

    def link(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"[{titles[name]}]({name}.md)" if name in titles else found.group(0)

    return re.sub(r"`docs/([\w-]+)\.md`", link, text)


def menu() -> str:
    parts = ("\n".join([f"```{{toctree}}\n:hidden:\n:caption: {part}\n", *names, "```"]) for part, names in PAGES.items())
    return "\n\n" + "\n\n".join(parts) + "\n"


def prepare() -> None:
    """The pages as Sphinx reads them. Ends the program where the menu and the folder differ."""
    texts = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
    texts["benchmarks"] += "\n" + (ROOT / "benchmarks/README.md").read_text("utf-8")
    named = {"index", *(name for names in PAGES.values() for name in names)}
    if named != set(texts):
        sys.exit(f"the menu in .ci/site.py and docs/ differ: {', '.join(sorted(named ^ set(texts)))}")
    titles = {name: text.partition("\n")[0].removeprefix("# ") for name, text in texts.items()}
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs/images", SOURCE / "images")
    (SOURCE / "_static").mkdir()
    (SOURCE / "_static/site.css").write_text(STYLE, "utf-8")
    for name, text in texts.items():
        (SOURCE / f"{name}.md").write_text(linked(text, titles) + (menu() if name == "index" else ""), "utf-8")


def main() -> int:
    prepare()
    settings = {
        "project": "i2i", "extensions": "myst_parser", "html_theme": "furo", "html_title": "i2i", "myst_heading_anchors": "3",
        "html_static_path": "_static", "html_css_files": "site.css", "html_show_sphinx": "0", "html_show_copyright": "0",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("-D", f"{name}={value}")]
    return subprocess.call([sys.executable, "-m", "sphinx", "-C", "-q", "-W", "--keep-going", *words, str(SOURCE), str(SITE)])


if __name__ == "__main__":
    sys.exit(main())
