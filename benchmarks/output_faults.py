"""Faults of the output, for every task, as real processes: one line that says the cure, nothing lost, and the run goes on.

    python benchmarks/output_faults.py [--task all] [--fault WORDS] [--folder DIR]

Two runs on one output; a disk that is full when the run begins, while the canvas grows, while the result is published, while
its side files are; a folder on a file system that is mounted read-only; a folder that the user may not write; an output that is
its input by hard link. Each is done where an older file has the output's name, which --overwrite is to replace, and which has to
stay as it is. After the disks that filled up, room is made and the run goes on with --resume: all files have the bytes of the run
that nothing disturbed.

The disk is a small tmpfs, on which another file takes the room just then, and leaves half of what the file needs (at the canvas:
nothing, from the second block or state that is kept). Mounting needs root (on Linux); without, those rows are left out, and the
reason is printed. As in `resume.py`, runs are done as for an image that does not fit into memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiment import say
from machine import machine
from resume import CASES, Case

PROGRAM = """
import os, sys
from dataclasses import replace
{patch}
if "LEFT" in os.environ:
    import output_faults
    output_faults.fill_when(os.environ["WHEN"], int(os.environ["LEFT"]))
from i2i.cli import main
main(sys.argv[1:])
"""
"""``i2i``; with the variables LEFT and WHEN, :func:`fill_when`."""
SIDES = {
    "segment": ("--csv", "out.csv", "--overlay", "look.png"), "translate": ("--overlay", "look.png"),
    "stylize": ("--overlay", "look.png"), "stylize-fast": ("--overlay", "look.png"),
}  # fmt: skip
SMALLER = {"segment": 1024, "instances": 640, "translate": 768, "stylize": 128, "stylize-fast": 512}
"""Sides of the images, in pixels."""
DISK = 192 * 2**20
OLD = b"what was there before"
BALLAST = "ballast"


class Skipped(Exception):
    """Why a fault cannot be made here."""


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """``folder`` is a small disk inside. Raises ``Skipped``."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        raise Skipped("no file system can be mounted here (root may)")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def leave_free(folder: Path, size: int) -> None:
    """Another file takes all but ``size`` bytes of the disk."""
    status = os.statvfs(folder)
    taken = status.f_bavail * status.f_frsize - size
    with (folder / BALLAST).open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, taken))


def fill_when(moment: str, left: int) -> None:
    """In the program that is run: the disk has ``left`` bytes more when it begins to publish, or (``canvas``) when what is kept
    the second time is to be written."""
    from i2i import session
    from i2i.canvas import DiskCanvas

    calls = 0

    def filling(owner: object, name: str, number: int) -> None:
        call = getattr(owner, name)

        def full(*given: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                leave_free(Path(), left)
            return call(*given)

        setattr(owner, name, full)

    if moment == "publish":
        filling(session, "write_all", 1)
    else:
        filling(DiskCanvas, "store", 2)
        filling(DiskCanvas, "mark", 2)


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class End:
    """How a process ended: its exit code, and its lines on stderr."""

    code: int
    lines: tuple[str, ...]


def ended(running: subprocess.Popen[bytes], expected: int | None = None) -> End:
    """Ends the program when the code is not the one ``expected``."""
    _, err = running.communicate()
    end = End(running.returncode, tuple(err.decode().splitlines()))
    if expected is not None and end.code != expected:
        sys.exit(f"ended with {end.code}: {end.lines}")
    return end


@dataclass
class Run:
    """A task's run in ``folder``, where its input is, and what it gives when nothing disturbs it: ``results``, the hash of each
    file; ``size`` and ``more``, bytes of the result and of its side files."""

    case: Case
    sides: tuple[str, ...]
    folder: Path
    results: dict[str, str] = field(default_factory=dict)
    size: int = 0
    more: int = 0

    @property
    def output(self) -> Path:
        return self.folder / self.case.output

    @property
    def partial(self) -> Path:
        return self.folder / f"{self.case.output}.i2i-partial"

    def start(self, *more: str, before: tuple[str, ...] = (), **variables: object) -> subprocess.Popen[bytes]:
        """``before``: words that start the program in another way; ``variables``: of its environment."""
        tile = ["--tile", str(self.case.tile)] if self.case.tile else []
        program = [*before, sys.executable, "-c", PROGRAM.format(patch=self.case.patch)]
        command = [*program, *self.case.words, *self.sides, *tile, "-q", *more]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"I2I_OFFLINE": "1", "PYTHONPATH": path}
        environment |= {name: str(value) for name, value in variables.items()}
        return subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE, env=environment)

    def here(self) -> dict[str, str]:
        """The hash of each file but the input's and the ballast's."""
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        named = {path.relative_to(self.folder).as_posix(): path for path in files}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items() if name not in ("in.tif", BALLAST)
        }

    def journal(self) -> int:
        path = self.partial / "journal.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def measure(self) -> None:
        """Run it undisturbed."""
        ended(self.start(), 0)
        self.results, self.size = self.here(), self.output.stat().st_size
        self.more = sum((self.folder / name).stat().st_size for name in self.results) - self.size
        self.clear()

    def differences(self) -> list[str]:
        now = self.here()
        return [f"{name} differs" for name in sorted({*now, *self.results}) if now.get(name) != self.results.get(name)]

    def clear(self) -> None:
        for path in list(self.folder.iterdir()):
            if path.name != "in.tif":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass(frozen=True)
class Outcome:
    """``after``: what came of the run that went on; ``faults``: what is not as promised."""

    end: End
    intact: bool
    after: str
    faults: tuple[str, ...]


def judged(run: Run, end: End, code: int, words: tuple[str, ...], more: tuple[str, ...] = ()) -> Outcome:
    """The end of a run that had to fail with ``code`` and one line that holds ``words``, over an older file."""
    faults, intact = list(more), run.output.read_bytes() == OLD
    if (end.code, len(end.lines)) != (code, 1) or not all(word in end.lines[0] for word in words):
        faults.append(f"exit code {end.code}, {len(end.lines)} lines: {end.lines}")
    if not intact:
        faults.append("the older file is gone")
    return Outcome(end, intact, "-", tuple(faults))


# -------------------------------------------------------------------------------------------------------------- faults


def two_runs(run: Run) -> Outcome:
    """A second run on one output"""
    run.output.write_bytes(OLD)
    first = run.start("--overwrite")
    while not run.partial.exists() and first.poll() is None:
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
    second = ended(run.start("--overwrite"))
    outcome = judged(run, second, 1, ("another run is writing this output",))
    first.send_signal(signal.SIGCONT)
    ended(first, 0)
    wrong = run.differences()
    return Outcome(outcome.end, outcome.intact, f"the first: {'NO' if wrong else 'same bytes'}", (*outcome.faults, *wrong))


def full_from_the_start(run: Run) -> Outcome:
    """The disk is full when the run begins"""
    run.output.write_bytes(OLD)
    leave_free(run.folder, 0)
    end = ended(run.start("--overwrite"))
    left = tuple(f"{name} is left" for name in run.here() if name != run.case.output)
    (run.folder / BALLAST).unlink()
    return judged(run, end, 1, ("room on the disk", "free some"), left)


def gone_on(run: Run, running: subprocess.Popen[bytes]) -> Outcome:
    """The end of a run whose disk has filled up; there is room again, and it goes on."""
    end, reached = ended(running), run.journal()
    named = tuple(
        f"{name} has its name already" for name in run.results if name != run.case.output and (run.folder / name).exists()
    )
    (run.folder / BALLAST).unlink()
    outcome = judged(run, end, 1, ("no room is left on the disk", "--resume goes on"), named)
    last = ended(run.start("--resume"))
    wrong = [f"--resume: {last.code} {last.lines}"] if last.code else run.differences()
    after = f"--resume from {reached} lines: {'NO' if wrong else 'same bytes'}"
    return Outcome(outcome.end, outcome.intact, after, (*outcome.faults, *wrong))


def full_at_the_canvas(run: Run) -> Outcome:
    """The disk fills up at the canvas"""
    run.output.write_bytes(OLD)
    return gone_on(run, run.start("--overwrite", WHEN="canvas", LEFT=0))


def full_at_the_result(run: Run) -> Outcome:
    """The disk fills up at the result"""
    run.output.write_bytes(OLD)
    return gone_on(run, run.start("--overwrite", WHEN="publish", LEFT=run.size // 2))


def full_at_side_files(run: Run) -> Outcome:
    """The disk fills up at side files"""
    run.output.write_bytes(OLD)
    return gone_on(run, run.start("--overwrite", WHEN="publish", LEFT=run.size + 4096 + run.more // 2))


def read_only(run: Run) -> Outcome:
    """The file system is mounted read-only"""
    run.output.write_bytes(OLD)
    subprocess.run(["mount", "-o", "remount,ro", str(run.folder)], check=True)
    try:
        end = ended(run.start("--overwrite"))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(run.folder)], check=True)
    return judged(
        run,
        end,
        1,
        ("Read-only file system", "choose another"),
        tuple(f"{name} is left" for name in run.here() if name != run.case.output),
    )


def forbidden(run: Run) -> Outcome:
    """The user may not write there"""
    bound = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()
    if bound and not shutil.which("setpriv"):
        raise Skipped("root may write anywhere, and there is no setpriv to forbid it")
    run.output.write_bytes(OLD)
    mode = run.folder.stat().st_mode & 0o777
    run.folder.chmod(0o555)
    try:
        end = ended(run.start("--overwrite", before=bound))
    finally:
        run.folder.chmod(mode)
    return judged(run, end, 1, ("Permission denied", "choose another"))


def hard_link(run: Run) -> Outcome:
    """The output is the input by hard link"""
    source, content = run.folder / "in.tif", (run.folder / "in.tif").read_bytes()
    os.link(source, run.output)
    end = ended(run.start("--overwrite"))
    same = source.read_bytes() == content
    run.output.unlink()
    run.output.write_bytes(OLD)
    outcome = judged(run, end, 2, ("the output is the input", "choose another"), () if same else ("the input has changed",))
    return Outcome(outcome.end, same, "-", outcome.faults)


FAULTS: tuple[Callable[[Run], Outcome], ...] = (
    two_runs, full_from_the_start, full_at_the_canvas, full_at_the_result, full_at_side_files, read_only, forbidden, hard_link,
)  # fmt: skip
ON_A_DISK = (full_from_the_start, full_at_the_canvas, full_at_the_result, full_at_side_files, read_only)


# --------------------------------------------------------------------------------------------------------------- table


def row(task: str, fault: Callable[[Run], Outcome], run: Run, disk: bool) -> tuple[str, bool]:
    name = fault.__doc__ or ""
    try:
        if fault in ON_A_DISK and not disk:
            raise Skipped("no file system can be mounted here (root may)")
        outcome = fault(run)
    except Skipped as reason:
        return f"| {task} | {name} | left out: {reason} | | | |", True
    finally:
        run.clear()
    line = (outcome.end.lines or ("",))[-1].replace(str(run.folder), "FOLDER").replace("|", "/")
    for told in outcome.faults:
        say(f"{task}: {name}: {told}")
    right = "no" if outcome.faults else "yes"
    intact = "yes" if outcome.intact else "NO"
    return f"| {task} | {name} | {outcome.end.code} | {line} | {intact} | {outcome.after} | {right} |", not outcome.faults


def task_rows(task: str, folder: Path, words: str) -> Iterator[tuple[str, bool]]:
    """Each fault of a task that has these words in its name: a line of the table, and whether all is as it should be."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted(folder))
            disk = True
        except Skipped:
            disk = False
        folder.chmod(0o755)
        case = CASES[task]
        case.make(folder, SMALLER[task])
        run = Run(case, SIDES.get(task, ()), folder)
        run.measure()
        say(f"{task}: {len(run.results)} files; result {run.size}, side files {run.more} bytes")
        for fault in (fault for fault in FAULTS if words in str(fault.__doc__)):
            yield row(task, fault, run, disk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="all", choices=("all", *SMALLER))
    parser.add_argument("--fault", default="", metavar="WORDS", help="only those that have these words in their name")
    parser.add_argument("--folder", type=Path, help="where the small disks are mounted (default: a temporary folder)")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the disk is unmounted
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}\n")
    print("| task | fault | exit code | the line | what was there is intact | afterwards | as promised |")
    print("|---|---|---|---|---|---|---|", flush=True)
    results = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        Path(name).chmod(0o755)
        for task in SMALLER if asked.task == "all" else [asked.task]:
            for text, right in task_rows(task, Path(name) / task, asked.fault):
                results.append(right)
                print(text, flush=True)
    if not all(results):
        sys.exit("NOT as promised")


if __name__ == "__main__":
    main()
