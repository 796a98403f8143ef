"""What the benchmarks that train have in common: runs that are kept and go on, folders of data, means and spreads, tables."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

I2I = [sys.executable, "-m", "i2i"]
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
Figures = dict[str, float]


def say(text: str) -> None:
    """A line of progress on stderr; stdout is for the table alone."""
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------ the options


@dataclass(frozen=True)
class Budget:
    """What a U-Net may cost to train. ``crop``: side of a crop in pixels."""

    steps: int
    batch: int = 8
    crop: int = 256
    depth: int = 4
    filters: int = 16

    def words(self, validations: int = 3) -> list[str]:
        """Of ``i2i train segment``, which validates so many times in a run."""
        named = [word for name, value in asdict(self).items() for word in (f"--{name}", str(value))]
        return [*named, "--validate-every", str(max(1, self.steps // validations))]

    def __str__(self) -> str:
        crops = f"{self.batch} crops of {self.crop} x {self.crop}"
        return f"U-Net of depth {self.depth} with {self.filters} filters, {self.steps} steps of {crops}"


def add_budget(parser: argparse.ArgumentParser, default: Budget) -> None:
    helps = {
        "steps": "of each training", "batch": "crops in a step", "crop": "side of a crop, in pixels",
        "depth": "times that the U-Net halves the image", "filters": "channels of its first level",
    }  # fmt: skip
    for name, value in asdict(default).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{helps[name]} (default: {value})")


def budget_of(asked: argparse.Namespace) -> Budget:
    return Budget(asked.steps, asked.batch, asked.crop, asked.depth, asked.filters)


def add_folders(parser: argparse.ArgumentParser, needs: str) -> None:
    parser.add_argument("--data", type=Path, required=True, help=f"the folder that holds {needs}")
    parser.add_argument("--out", type=Path, required=True, help="where models, checkpoints and figures go, and are found again")


def numbers(text: str) -> tuple[int, ...]:
    """ "0,1,2" -> (0, 1, 2). Raises ``ValueError``, which argparse tells."""
    return tuple(int(word) for word in text.split(","))


# --------------------------------------------------------------------------------------------------------------- the runs


def kept(out: Path, name: str, settings: Mapping[str, Any], make: Callable[[], Figures]) -> Figures:
    """The figures in ``out/name.json``; where there are none yet, those that ``make`` gives, which are kept there.

    Ends the program where the file is of a run with other settings.
    """
    path = out / f"{name}.json"
    now = json.loads(json.dumps(settings))
    if path.exists():
        then = json.loads(path.read_text("utf-8"))
        changed = [key for key in {**then["settings"], **now} if then["settings"].get(key) != now.get(key)]
        if changed:
            told = ", ".join(f"{key} was {then['settings'].get(key)}, is {now.get(key)}" for key in changed)
            sys.exit(f"{path}: of other settings: {told}; give another --out")
        say(f"{name}: there already")
        return then["figures"]
    say(name)
    figures = make()
    out.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({"settings": now, "figures": figures}, indent=1), "utf-8")
    os.replace(temporary, path)
    return figures


def train(model: Path, images: Path, masks: Path, *words: str) -> Figures:
    """:func:`train_task` of segment."""
    return train_task(model, "segment", "--images", str(images), "--masks", str(masks), *words)


def train_task(model: Path, task: str, *words: str) -> Figures:
    """``i2i train`` as a process of its own, which goes on with the checkpoint of one that was killed. Its figures, ``seconds``
    of training (and validation) among them. Ends the program where it fails."""
    model.parent.mkdir(parents=True, exist_ok=True)
    command = [*I2I, "train", task, "-o", str(model), "--resume", "--json", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{model.name}: the training ended with {done.returncode}; the same command goes on with it")
    return json.loads(done.stdout)


def predict(images: Path, output: Path, task: str = "segment", **options: Any) -> list[float]:
    """``i2i segment``, or another task, of a folder. The seconds of computing of each image, in the order of their names, without
    reading, writing and loading the model. Ends the program where an image fails."""
    from i2i import api

    reports = api.run_many(task, [images], output, overwrite=True, **options)
    for report in reports:
        if report.error:
            sys.exit(f"{report.input}: {report.error}")
    return [report.seconds["compute"] for report in sorted(reports, key=lambda report: report.input)]


def timed(task: str, words: Iterable[Any]) -> tuple[float, int]:
    """Seconds and peak bytes of a command as the system counts them, start-up and files included. Ends the program where it
    fails."""
    begun = time.monotonic()
    child = subprocess.Popen([*I2I, task, *map(str, words), "--overwrite", "-q"])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{task}: exit code {child.returncode}")
    return time.monotonic() - begun, usage.ru_maxrss * (1024 if sys.platform != "darwin" else 1)


def evaluate(prediction: Path, truth: Path, task: str = "segment", **options: Any) -> Figures:
    """The pooled figures of ``i2i eval segment``, or of another task, of two folders."""
    from i2i import api

    return dict(api.evaluate(task, prediction, truth, **options).pooled)


# --------------------------------------------------------------------------------------------------------------- the data


def files_of(folder: Path) -> list[Path]:
    """The images in a folder by name. Ends the program where there are none."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        sys.exit(f"{folder}: no images there; --data names the folder that holds the data sets")
    return files


def spread_out(files: Sequence[Path], count: int) -> list[Path]:
    """``count`` of the files at equal distances, all where there are no more: neighbours in a stack are much alike."""
    if count >= len(files):
        return list(files)
    return [files[(2 * number + 1) * len(files) // (2 * count)] for number in range(count)]


def copied(source: Path, folder: Path, chosen: Iterable[Path]) -> Path:
    """``folder/images`` and ``folder/masks`` with copies of the chosen images of ``source/images`` and their masks: nothing else
    is there afterwards."""
    masks = {path.stem: path for path in files_of(source / "masks")}
    shutil.rmtree(folder, ignore_errors=True)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for path in chosen:
        shutil.copyfile(path, folder / "images" / path.name)
        shutil.copyfile(masks[path.stem], folder / "masks" / masks[path.stem].name)
    return folder


# ------------------------------------------------------------------------------------------------------------ the figures


def shown(values: Sequence[float], digits: int = 3) -> str:
    """The mean, and of several values the least and the largest: "0.250 (0.200 to 0.300)"."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else mean


def spread(*groups: Sequence[float]) -> float:
    """The largest distance between two values of one group: what the seed alone changes."""
    return max(max(values) - min(values) for values in groups)


def ordering(first: Sequence[float], second: Sequence[float]) -> int:
    """-1 where the first values are smaller, 1 where they are larger; 0 where that is undecided: the means are no further apart
    than values of one kind among themselves, or a kind has one value alone, so that nothing is known of its spread."""
    difference = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2 or abs(difference) <= spread(first, second):
        return 0
    return 1 if difference > 0 else -1


@dataclass(frozen=True)
class Claim:
    """That the values of ``more`` are above those of ``less``, each of which has a value for each seed. ``figure``: what they
    are values of."""

    text: str
    figure: str
    more: Sequence[float]
    less: Sequence[float]

    @property
    def way(self) -> int:
        """1: so it is; -1: it is the other way round; 0: undecided."""
        return ordering(self.more, self.less)

    def __str__(self) -> str:
        told = {1: "so it is here", -1: "the other way round here", 0: "undecided"}[self.way]
        means = f"{statistics.fmean(self.more):.3g} against {statistics.fmean(self.less):.3g}"
        return f"{self.text}: {told}; {self.figure} {means}, the seeds differ by {spread(self.more, self.less):.2g}"


def lesson(claims: Sequence[Claim], needs: str = "more steps, or more seeds") -> str:
    """A line for each claim, and a sentence that can be relied on."""
    parts = {
        1: "What holds here: {}.",
        -1: "The other way round here: {}.",
        0: "Undecided: {}; it would need " + needs + ".",
    }
    sentences = [
        words.format("; ".join(found)) for way, words in parts.items() if (found := [c.text for c in claims if c.way == way])
    ]
    return "\n".join([*(f"- {claim}." for claim in claims), "", " ".join(sentences)])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    lines[1] = lines[1].replace(" ", "")
    return "\n".join(lines)
