"""Worker processes as seen from outside: they are asked, watched, and ended when they take too long or too much memory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzzing.seeds import Files
from i2i.files import remove

HERE = Path(__file__).parent
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
WAITING = 6.0
"""Of the seconds that a worker may compute: how often as long it may take, on a machine that has other things to do."""
PLUGIN = "i2i_fuzz_echo-1.dist-info"


class Server:
    """A server of one kind (see :mod:`fuzzing.worker`), whose workers are ended beyond ``seconds`` of computing or ``memory``
    bytes. Use it as a context; ``folder`` is its own. ``slowest``, ``largest``: the most seconds and resident bytes of a
    request that ended."""

    def __init__(self, kind: str, folder: Path, inputs: int, seconds: float, memory: int) -> None:
        self._folder, self.seconds, self.memory = folder, seconds, memory
        self._pid: int | None = None
        self.slowest, self.largest = 0.0, 0
        self._rest = b""
        _install_echo(folder)
        (folder / "tmp").mkdir()
        program = f"from pathlib import Path; from fuzzing.worker import serve; serve({kind!r}, Path({str(folder)!r}), {inputs})"
        words = [sys.executable, "-c", program]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(folder), cwd=folder
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *given: Any) -> None:
        self._process.__exit__(*given)

    def ask(self, do: str, words: list[str]) -> dict[str, Any]:
        """The worker's answer; of one that ended or was ended: ``died``, a signal's number, with ``why`` and what it wrote."""
        assert self._process.stdin is not None
        if self._pid is None:
            self._pid = int(json.loads(self._line()[0])["pid"])
        os.write(self._process.stdin.fileno(), json.dumps({"do": do, "words": words}).encode() + b"\n")
        answer = self._answer()
        self.slowest, self.largest = max(self.slowest, answer.get("seconds", 0.0)), max(self.largest, answer.get("peak", 0))
        left = [path.name for path in (self._folder / "tmp").iterdir()]
        for name in left:
            remove(self._folder / "tmp" / name)
        return answer | {"left": left}

    def fresh(self) -> None:
        """The next request goes to a new worker."""
        if self._pid is not None:
            self._end(self._pid)

    def _answer(self) -> dict[str, Any]:
        line, why = self._line(watch=True)
        answer: dict[str, Any] = {"died": signal.SIGKILL} if why else json.loads(line)
        if why and self._pid is not None:
            os.kill(self._pid, signal.SIGUSR1)  # where it is
            time.sleep(0.3)
            self._end(self._pid)
        elif answer.get("last") or "died" in answer:
            self._pid = None
        if "died" in answer:
            stderr = (self._folder / "stderr").read_bytes().decode("utf-8", "replace")
            return {"died": os.waitstatus_to_exitcode(answer["died"]), "why": why or "crash", "stderr": stderr}
        return answer

    def _end(self, worker: int) -> None:
        """Kill a worker, which may just have answered, or come to its own end."""
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        told: dict[str, Any] = {}
        while not {"died", "pid"} & set(told):
            told = json.loads(self._line()[0])
        self._pid = told.get("pid")

    def _line(self, watch: bool = False) -> tuple[bytes, str]:
        """The next line; with ``watch``, why the worker is to be ended instead of one."""
        assert self._process.stdout is not None
        end, most = time.monotonic() + WAITING * self.seconds, self._computed() + self.seconds
        while b"\n" not in self._rest:
            if select.select([self._process.stdout], [], [], 0.05)[0]:
                data = os.read(self._process.stdout.fileno(), 2**16)
                if not data:
                    raise RuntimeError("the server of workers has ended")
                self._rest += data
            elif watch and (time.monotonic() > end or self._computed() > most):
                return b"", "hang"
            elif watch and self._resident() > self.memory:
                return b"", "memory"
        line, self._rest = self._rest.split(b"\n", 1)
        return line, ""

    def _computed(self) -> float:
        """Seconds that all threads of the worker have computed."""
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        except (OSError, IndexError):
            return 0.0

    def _resident(self) -> int:
        try:
            return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            return 0


def _environment(folder: Path) -> dict[str, str]:
    """One thread, no network, a cache and a folder for temporary files of its own; the toy task is installed."""
    paths = [str(folder), str(HERE.parent), *filter(None, sys.path)]
    own = {"I2I_OFFLINE": "1", "I2I_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "COLUMNS": "100"}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | own | threads | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONWARNINGS": ""}


def _install_echo(folder: Path) -> None:
    """The toy task as a plugin, in the way a package of its own would be one."""
    information = folder / PLUGIN
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: i2i-fuzz-echo\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[i2i]\necho = fuzzing.echo\n")


def write_input(place: Path, files: Files) -> None:
    """A file, or a folder of files, at a path where nothing is."""
    for name, content in files.items():
        path = place / name if name else place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
