"""Runs of every task that are interrupted, or killed at a moment that is chosen: what is done is kept, nothing unfinished looks
finished, and ``--resume`` ends with the bytes of a run that nobody stopped."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from i2i.models import open_model, save_model
from tests.cli.kit import picture, save
from tests.faults.program import Ended, Program
from tests.faults.test_bad_images import assert_one_line
from tests.faults.test_outputs import TRAINED, learn
from tests.faults.uses import IMAGE_TASKS, image_words, tree

TASKS = [*IMAGE_TASKS, "stylize, by optimisation"]
TILES = {"segment": "96", "instances": "144", "translate": "64", "stylize": "96", "bioimage": "64"}
_PROGRAM = """
import os
from dataclasses import replace
from i2i import begin, canvas, files
from i2i_style import gatys

make, take = begin.make_plan, files._take_place
moments = os.open("moments", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)

def at_moment(number):
    os.write(moments, b".")
    if os.fstat(moments).st_size == number:
        os.kill(os.getpid(), {signal})

def counted(call):
    def called(self, *given):
        call(self, *given)
        at_moment({moment})
    return called

def taking(new, path):
    if path.name == "out.tif" and {publishing}:
        at_moment({moment})
    take(new, path)

begin.make_plan = lambda *given: replace(make(*given), canvas="disk", cores=1, batch=1)
gatys._KEEP_SECONDS = 0
files._take_place = taking
if not {publishing}:
    for name in ("mark", "store"):
        setattr(canvas.DiskCanvas, name, counted(getattr(canvas.DiskCanvas, name)))
"""


def program_of(moment: int = -1, number: int = signal.SIGKILL, publishing: bool = False) -> str:
    """As if the image were large: a canvas on disk, one window a block. A moment is each block that is journaled and each state
    that is kept; at the chosen one, or when the output is to get its name, the process sends itself a signal."""
    return _PROGRAM.format(moment=moment, signal=int(number), publishing=publishing)


class Run(NamedTuple):
    """A run of a task that can be repeated."""

    program: Program
    folder: Path
    words: list[str]

    def __call__(self, *more: object, before: str = "") -> Ended:
        return self.program.run(self.folder, *self.words, *more, before=before)

    @property
    def journal(self) -> list[dict[str, Any]]:
        path = self.folder / "out.tif.i2i-partial/journal.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def resumed(self, whole: bytes, blocks: int) -> None:
        """Go on: the same bytes, no block done again that the journal names, nothing left."""
        kept = len(self.journal)
        ended = self("--resume", "--json")
        assert ended.code == 0, ended
        (run,) = ended.json["runs"]
        assert (run["blocks_reused"], run["blocks_computed"]) == (kept, blocks - kept)
        assert (self.folder / "out.tif").read_bytes() == whole
        (self.folder / "out.tif").unlink()
        assert {name for name in tree(self.folder) if "out" in name or ".i2i-" in name} == set()


@pytest.fixture
def run(request: pytest.FixtureRequest, program: Program, networks: Path, folder: Path) -> Run:
    save(folder / "a.tif", picture(100, 200))
    if request.param in IMAGE_TASKS:
        return Run(
            program,
            folder,
            [*image_words(networks, request.param), "a.tif", "-o", "out.tif", "--tile", TILES[request.param]],
        )
    save(folder / "style.tif", picture(40, 50))
    given = ["--style", "style.tif", "--encoder", str(networks / "encoder.safetensors"), "--size", "96", "--steps", "6"]
    return Run(program, folder, ["stylize", "a.tif", "-o", "out.tif", *given])


def undisturbed(run: Run) -> tuple[bytes, int, int]:
    """The bytes of the result, the blocks and the moments of a run that nobody stops."""
    ended = run("--json", before=program_of())
    assert ended.code == 0, ended
    (report,) = ended.json["runs"]
    assert report["plan"]["canvas"] == "disk" and report["objects"] != 0
    whole = (run.folder / "out.tif").read_bytes()
    (run.folder / "out.tif").unlink()
    return whole, report["blocks_computed"], (run.folder / "moments").stat().st_size


@pytest.mark.parametrize("run", TASKS, indirect=True)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(run: Run) -> None:
    whole, blocks, moments = undisturbed(run)
    assert moments >= 4
    for share in (0.1, 0.5, 0.99):
        moment = max(1, round(share * moments))
        assert run(before=program_of(moment)).code == -signal.SIGKILL
        assert not (run.folder / "out.tif").exists() and (run.folder / "moments").stat().st_size == moment
        run.resumed(whole, blocks)
    assert run(before=program_of(1, publishing=True)).code == -signal.SIGKILL
    assert not (run.folder / "out.tif").exists() and len(run.journal) == blocks, "all is done but the name"
    run.resumed(whole, blocks)


@pytest.mark.parametrize("run", TASKS, indirect=True)
def test_an_interrupted_run_says_how_to_go_on_and_goes_on_as_itself_alone(run: Run, networks: Path) -> None:
    """By SIGTERM it ends as by SIGINT. Then its journal is torn, as by a machine that stops; another option is refused."""
    whole, blocks, moments = undisturbed(run)
    for number in (signal.SIGINT, signal.SIGTERM):
        ended = run("--overwrite", before=program_of(moments // 2, number))
        assert (ended.code, ended.lines[-1]) == (130, "interrupted"), ended
        assert ended.lines[-2] == "what is done is kept: the same command with --resume goes on"
        assert not (run.folder / "out.tif").exists() and not list(run.folder.glob(".out*"))
    path = run.folder / "out.tif.i2i-partial/journal.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    before = tree(run.folder)
    assert_one_line(run(), 1, "out.tif.i2i-partial: a run that did not finish", "--resume", "--overwrite")
    for words in [[*run.words, "--seed", "1"], *with_another_model(run, networks)]:
        ended = run._replace(words=words)("--resume")
        assert_one_line(ended, 1, "out.tif.i2i-partial: was begun with another input, model, option", "--overwrite")
    assert tree(run.folder) == before, "a refusal costs nothing"
    run.resumed(whole, blocks)


def with_another_model(run: Run, networks: Path) -> list[list[str]]:
    """The words of the run with another model: the same network, of which one weight is changed. None where it has no --model."""
    if "--model" not in run.words:
        return []
    place = run.words.index("--model") + 1
    model, path = open_model(Path(run.words[place])), networks / "other.safetensors"
    tensors = model.tensors()
    next(iter(tensors.values())).flatten()[0] += 1
    save_model(path, tensors, model.config)
    return [[*run.words[:place], str(path), *run.words[place + 1 :]]]


# --------------------------------------------------------------------------------------------------------------- training

_STEPS = """
import os
from i2i.training import loop
take, taken = loop._take_step, []

def counted(*given):
    found = take(*given)
    taken.append(found)
    if len(taken) == {step}:
        os.kill(os.getpid(), {signal})
    return found

loop._take_step = counted
"""


def learning(networks: Path, folder: Path, task: str, steps: int) -> list[str]:
    """The words of a training with a checkpoint every second step."""
    words = [*learn(networks, folder, task, "model.safetensors"), "-q"]
    for flag, number in (("--steps", steps), ("--validate-every", 2)):
        words[words.index(flag) + 1] = str(number)
    return words


@pytest.mark.parametrize("task", TRAINED)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_how_to_go_on(
    number: int, task: str, program: Program, networks: Path, folder: Path
) -> None:
    words = learning(networks, folder, task, 4)
    ended = program.run(folder, *words, before=_STEPS.format(step=3, signal=int(number)))
    told = ["the last checkpoint is kept: the same command with --resume goes on from it", "interrupted"]
    assert (ended.code, ended.lines) == (130, told), ended
    assert not (folder / "model.safetensors").exists() and not list(folder.rglob("*.i2i-*"))


def test_a_training_of_stylize_killed_goes_on_to_the_same_bytes(program: Program, networks: Path, folder: Path) -> None:
    """Those of the other tasks are killed in tests/cli."""
    words = learning(networks, folder, "stylize", 6)
    assert program.run(folder, *words).code == 0
    model, work = folder / "model.safetensors", folder / "model-training"
    whole = model.read_bytes()
    model.unlink(), shutil.rmtree(work)
    assert program.run(folder, *words, before=_STEPS.format(step=5, signal=int(signal.SIGKILL))).code == -signal.SIGKILL
    assert not model.exists() and (work / "checkpoint.pt").exists()
    assert program.run(folder, *words, "--resume").code == 0
    assert model.read_bytes() == whole
