"""The wheels in a fresh environment outside the checkout, offline: what the package promises holds without its sources.

    python benchmarks/wheel.py [--folder DIR] [--index-args ARGS] [--keep]

Wheels of i2i and of both example packages are built (by hatchling, which `make test` installs) and installed into a new
environment with what they depend on, by plain pip: about 6 GB, and the only step that may use the network. Then, with
I2I_OFFLINE=1 and in a folder where no file of the checkout is seen: the help, `i2i plugins check`, `i2i demo`, the example
plugin's task and the example package's model on bundled samples, and the contract kit on the plugin's task. --keep: the
environment stays.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiment import say
from machine import machine

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT, ROOT / "examples/i2i-example-plugin", ROOT / "examples/i2i-example-model")
NEEDED = 7_000_000_000
CONTRACT = """
from pathlib import Path
import i2i, i2i_flatten
from i2i.testing import assert_task_contract, blobs
assert not Path(i2i.__file__).is_relative_to({root!r}) and not Path(i2i_flatten.__file__).is_relative_to({root!r})
(task,) = i2i_flatten.i2i_tasks()
assert_task_contract(task, options=i2i_flatten.FlattenOptions(sigma=2.0), images=[blobs(71, 93, 3).astype("uint8")])
print("kept for", task.name)
"""


@dataclass(frozen=True)
class Place:
    """A folder with an environment in it. Nothing of this process's Python is inherited."""

    folder: Path

    def run(self, program: str, *words: object) -> subprocess.CompletedProcess[str]:
        own = ("PYTHON", "I2I_", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        env |= {"I2I_CACHE_DIR": str(self.folder / "cache"), "I2I_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        command = [str(self.folder / "env/bin" / program), *map(str, words)]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)


def build(package: Path, folder: Path) -> None:
    """A wheel of a copy of the package: building leaves nothing in the checkout."""
    if package != ROOT:
        package = shutil.copytree(package, folder / "sources" / package.name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "wheels"), str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{package}: no wheel: {done.stderr or done.stdout}")


def install(place: Place, words: list[str]) -> None:
    """The wheels, and by pip what they depend on. Ends the program where that fails."""
    venv.create(place.folder / "env", with_pip=True, symlinks=True)
    done = place.run("python", "-m", "pip", "install", "-q", *words, *sorted((place.folder / "wheels").glob("*.whl")))
    if done.returncode:
        sys.exit(f"the wheels cannot be installed: {done.stderr}")


def files_are_there(folder: Path, *names: str) -> str:
    missing = [name for name in names if not (folder / name).exists() or not (folder / name).stat().st_size]
    return f"not there: {', '.join(missing)}" if missing else ""


def steps(place: Place) -> list[tuple[str, list[object], Callable[[str], str]]]:
    """Each: what it is called, the words of the command, and what says of its stdout what is wrong (nothing: all is right)."""

    def has(*words: str) -> Callable[[str], str]:
        return lambda out: "".join(f"without {word!r}; " for word in words if word not in out)

    samples = {
        path.name: shutil.copyfile(path, place.folder / path.name)
        for path in (ROOT / "plugins/i2i_unet/samples/nuclei.png", ROOT / "plugins/i2i_style/samples/astronaut.jpg")
    }
    nuclei, photo = samples["nuclei.png"].name, samples["astronaut.jpg"].name
    return [
        ("`i2i --help`", ["i2i", "--help"], has("segment", "instances", "translate", "stylize", "flatten")),
        ("`i2i plugins check`", ["i2i", "plugins", "check"], has("good    segment", "good    flatten")),
        ("`i2i demo`", ["i2i", "demo", "demo"], lambda out: files_are_there(place.folder, "demo/index.html")),
        (
            "`i2i flatten`, the example plugin's task",
            ["i2i", "flatten", photo, "-o", "flat.png", "--sigma", "20"],
            lambda out: files_are_there(place.folder, "flat.png"),
        ),
        (
            "`i2i segment --model nuclei-quick`, the example package's model",
            ["i2i", "segment", nuclei, "-o", "labels.tif", "--model", "nuclei-quick", "--json"],
            lambda out: files_are_there(place.folder, "labels.tif") or has('"model": "nuclei-quick"')(out),
        ),
        ("the contract kit on `flatten`", ["python", "-c", CONTRACT.format(root=str(ROOT))], has("kept for flatten")),
    ]


def row(place: Place, name: str, words: list[object], wrong: Callable[[str], str]) -> tuple[str, bool]:
    begun = time.monotonic()
    done = place.run(*words)  # type: ignore[arg-type]
    seconds = time.monotonic() - begun
    fault = f"exit code {done.returncode}: {done.stderr.strip()[-300:]}" if done.returncode else wrong(done.stdout)
    return f"| {name} | {fault or 'right'} | {seconds:.1f} |", not fault


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the environment goes (default: a temporary folder)")
    parser.add_argument("--index-args", default="", help="more words for pip, such as '--no-index --find-links DIR'")
    parser.add_argument("--keep", action="store_true", help="leave the environment there")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="i2i-wheel-", dir=asked.folder)).resolve()
    try:
        if folder.is_relative_to(ROOT):
            sys.exit(f"{folder}: is in the checkout; give another --folder")
        if shutil.disk_usage(folder).free < NEEDED:
            sys.exit(f"{folder}: needs {NEEDED / 1e9:.0f} GB; give another --folder")
        for package in PACKAGES:
            say(f"building {package.name}")
            build(package, folder)
        place = Place(folder)
        say(f"installing into {folder / 'env'}: a few minutes")
        install(place, shlex.split(asked.index_args))
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in sorted((folder / "wheels").glob("*.whl")))
        print(f"{machine()}; {sizes}\n")
        print("| step | result | seconds |")
        print("|---|---|---|", flush=True)
        results = []
        for step in steps(place):
            text, right = row(place, *step)
            results.append(right)
            print(text, flush=True)
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if not all(results):
        sys.exit("NOT as promised")


if __name__ == "__main__":
    main()
