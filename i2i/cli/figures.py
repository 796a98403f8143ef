"""The figures of an evaluation as tables for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from i2i.cli import console

_MEAN, _BEST, _AT = "mean_", "best_", "_at"
_BY_THRESHOLD = re.compile(r"(ap|f1_)(\d[\d.]*)")


def tables(pooled: Mapping[str, float], patterns: Sequence[str] = ()) -> list[str]:
    """Lines of text: a table with a row for each figure whose name is like one of ``patterns`` (all, where there are none),
    beside it its mean over the images and its best; then AP and F1 by threshold, where there are any."""
    chosen = {name: value for name, value in pooled.items() if not patterns or _like(_plain(name, pooled), patterns)}
    lines = console.table(_rows(chosen))
    steps = [step for stem, step in map(_stem, chosen) if stem == "ap" and f"f1_{step}" in chosen]
    return [*lines, "", *console.table(_by_threshold(chosen, steps))] if len(steps) > 1 else lines


def number(value: Any) -> str:
    """A figure as text: counts as such, scores with four digits behind the point, small ones with six."""
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) > 1:
        return f"{value:.0f}"
    return f"{value:.6f}" if 0 < abs(value) < 0.001 else f"{value:.4f}"


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _plain(name: str, pooled: Mapping[str, float]) -> str:
    """The figure that a name is the mean, the best, or the best's place of."""
    for prefix, end in ((_MEAN, ""), (_BEST, _AT), (_BEST, "")):
        bare = name.removeprefix(prefix).removesuffix(end)
        if name.startswith(prefix) and name.endswith(end) and bare in pooled:
            return bare
    return name


def _stem(name: str) -> tuple[str, str]:
    found = _BY_THRESHOLD.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")


def _rows(pooled: Mapping[str, float]) -> list[list[str]]:
    """A row for each figure but those at other thresholds than 0.5, and a column for what is there beside the value."""
    plain = [name for name in pooled if _plain(name, pooled) == name and _stem(name)[1] in ("", "50")]
    means = pooled.get("images", 1) != 1 and any(_MEAN + name in pooled for name in plain)
    best = any(_BEST + name in pooled for name in plain)
    columns = [("all together" if means else "value", "", "")]
    columns += [("mean of images", _MEAN, "")] if means else []
    columns += [("best", _BEST, ""), ("at threshold", _BEST, _AT)] if best else []
    cells = [[_cell(pooled, before + name + after) for _, before, after in columns] for name in plain]
    return [["metric", *(head for head, _, _ in columns)], *([name, *row] for name, row in zip(plain, cells, strict=True))]


def _by_threshold(pooled: Mapping[str, float], steps: Sequence[str]) -> list[list[str]]:
    means = f"{_MEAN}ap{steps[0]}" in pooled and pooled.get("images", 1) != 1
    heads = ["AP", "AP, mean", "F1", "F1, mean"] if means else ["AP", "F1"]
    names = ["ap", _MEAN + "ap", "f1_", _MEAN + "f1_"] if means else ["ap", "f1_"]
    rows = [[f"{float(step) / 100:.4g}", *(_cell(pooled, name + step) for name in names)] for step in steps]
    return [["threshold", *heads], *rows]


def _cell(pooled: Mapping[str, float], name: str) -> str:
    if name not in pooled:
        return ""
    return f"{pooled[name]:g}" if name.endswith(_AT) else number(pooled[name])
