"""A plugin that is broken, in whatever way, is named with its reason, and stops nothing else.

The plugins are fake distributions on ``PYTHONPATH``: a module and a ``dist-info`` folder. Each kind of fault is tried in a
process of its own, which calls the command line several times.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i import installed
from i2i.registry import _OWN_FLAGS, _OWN_NAMES, Registry

_CALLS = """
import contextlib, io, json, os, sys
from i2i.cli import main

answers = []
for words, disabled in json.loads(sys.argv[1]):
    os.environ["I2I_DISABLE_PLUGINS"] = disabled
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([answers, "torch" in sys.modules]))
"""
_API = "I2I_API = 1\n"


def hook(line, signature="i2i_tasks()", head=_API):
    """The text of a plugin with one hook, whose body is ``line``."""
    return f"{head}import i2i\nfrom i2i.contracts import Task\n@i2i.hookimpl\ndef {signature}:\n    {line}\n"


def giving(options="pass", name="stranger"):
    """The text of a plugin that gives a task; ``options``: the body of its options class."""
    imports = "from dataclasses import dataclass\nfrom i2i.options import option\n"
    head = f"{_API}{imports}@dataclass(frozen=True)\nclass Options:\n    {options}\n"
    return hook(f"return [Task({name!r}, 'A task', Options, lambda *given: None)]", head=head)


# name: (the module's text, or None for no module; what the reason holds)
KINDS = {
    "raises on import": ("raise RuntimeError('no luck\\nat all')", "RuntimeError: no luck at all (faulty.py, line 1)"),
    "exits on import": ("import sys\nsys.exit('bye')", "SystemExit: bye"),
    "panics on import": ("class Panic(BaseException): pass\nraise Panic", "Panic: no message"),
    "no module": (None, "ModuleNotFoundError: No module named 'faulty'"),
    "no Python": ("def :", "SyntaxError: "),
    "raises in the hook": (hook("return [1 / 0]"), "ZeroDivisionError: division by zero"),
    "exits in the hook": (hook("raise SystemExit(3)"), "SystemExit: 3"),
    "unknown hook argument": (hook("return []", "i2i_tasks(config)"), "config"),
    "misspelt hook": (hook("return []", "i2i_taks()"), "unknown hook 'i2i_taks'; there are: i2i_tasks, i2i_models"),
    "another API": (hook("return []", head="I2I_API = 99\n"), "I2I_API = 99, this i2i has 1"),
    "no API": (hook("return []", head=""), "I2I_API = None"),
    "gives strings": (hook("return ['stranger']"), "i2i_tasks gave a str where a Task is due"),
    "gives None": (hook("return None"), "i2i_tasks gave no list"),
    "gives no list": (hook("return 'stranger'"), "i2i_tasks gave no list"),
}
# those that only a task's own plugin can have
TASK_KINDS = {
    "another name": (giving(name="other"), "gives no task 'stranger'"),
    "no dataclass": (giving().replace("@dataclass(frozen=True)\n", ""), "the options of stranger are no dataclass"),
    "a bare field": (giving("size: int = 3"), "the option size of stranger was not made by i2i.options.option"),
    "a taken option": (giving("seed: int = option(0, help='x')"), "the option --seed of stranger is one that every"),
}


@dataclass(frozen=True)
class Site:
    """A folder of fake distributions, and calls of the command line that see them."""

    folder: Path

    def add(self, distribution, *entries, source="", module="faulty"):
        """``entries``: (group, name) pairs, all of one module; ``source``: its text, None for no module."""
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {module}\n" for group, name in entries))
        if source is not None:
            (self.folder / f"{module}.py").write_text(source)

    def run(self, *arguments):
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        settings = {"I2I_CACHE_DIR": str(self.folder / "cache"), "I2I_DISABLE_PLUGINS": "", "COLUMNS": "200"}
        env = os.environ | {"PYTHONPATH": path} | settings
        command = [sys.executable, "-c", *arguments]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False)

    def calls(self, *commands):
        """(exit code, stdout, stderr) of each command line, called in one process, which must not import torch. A command is a
        line, or a line with a value of ``I2I_DISABLE_PLUGINS``."""
        words = [(c.split(), "") if isinstance(c, str) else (c[0].split(), c[1]) for c in commands]
        done = self.run(_CALLS, json.dumps(words))
        assert done.returncode == 0, done.stderr
        answers, torch = json.loads(done.stdout)
        assert not torch
        return answers


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def line_with(text, *parts):
    """The one line that holds all the parts."""
    (line,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return line


def assert_others_go_on(helped, segment):
    assert helped[0] == 0
    assert "segment" in helped[1]
    assert segment[0] == 0
    assert "--model" in segment[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_named_and_stops_nothing(site, kind):
    source, reason = KINDS[kind]
    site.add("bad-task", ("i2i", "stranger"), source=source)
    site.add("bad-addon", ("i2i.extensions", "addon"), source=source)
    commands = ("--help", "plugins check", "plugins list", "stranger x.png", "segment --help")
    helped, check, listed, called, segment = site.calls(*commands)
    assert_others_go_on(helped, segment)
    assert "stranger" in helped[1]
    assert check[0] == 1
    assert line_with(check[1], "good", "segment of i2i-engine")
    assert reason in line_with(check[1], "broken", "stranger of bad-task")
    assert reason in line_with(check[1], "broken", "addon of bad-addon")
    assert listed[0] == 0
    assert "segment" in listed[1]
    assert reason in line_with(listed[2], "warning", "stranger of bad-task")
    assert called[0] == 1
    assert reason in line_with(called[2], "error", "stranger of bad-task")
    assert called[1] == ""
    assert reason in line_with(segment[2], "warning", "addon of bad-addon")


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_a_task_of_which_no_command_can_be_made_is_named(site, kind):
    source, reason = TASK_KINDS[kind]
    site.add("bad-task", ("i2i", "stranger"), source=source)
    helped, check, called, segment = site.calls("--help", "plugins check", "stranger --help", "segment --help")
    assert_others_go_on(helped, segment)
    assert check[0] == 1
    assert reason in line_with(check[1], "broken", "stranger of bad-task")
    assert called[0] == 1
    assert reason in line_with(called[2], "error", "stranger of bad-task")


@pytest.mark.parametrize(
    ("name", "reason"), [("segment", "taken by i2i-engine"), ("info", "is one of i2i itself"), ("twice", "taken by a-first")]
)
def test_a_name_that_is_taken(site, name, reason):
    site.add("bad-name", ("i2i", name), source=giving())
    if name == "twice":
        site.add("a-first", ("i2i", name), source=giving(name=name))
    helped, check, listed, segment = site.calls("--help", "plugins check", "plugins list", "segment --help")
    assert_others_go_on(helped, segment)
    assert check[0] == 1
    assert reason in line_with(check[1], "broken", f"{name} of bad-name")
    assert reason in line_with(listed[2], "warning", f"{name} of bad-name")
    assert "i2i-engine" in line_with(listed[1], "segment", "i2i")


def test_an_extension_gives_no_tasks(site):
    site.add("bad-addon", ("i2i.extensions", "addon"), source=giving())
    (check,) = site.calls("plugins check")
    assert check[0] == 1
    assert "needs an entry point of the group 'i2i'" in line_with(check[1], "broken", "addon of bad-addon")


def test_plugins_can_be_disabled(site):
    site.add("bad-task", ("i2i", "stranger"), source=KINDS["raises on import"][0])
    site.add("bad-addon", ("i2i.extensions", "addon"), source=KINDS["exits on import"][0])
    settings, commands = ("1", "all", "bad-task, addon", "stranger,bad-addon"), ("--help", "plugins check", "segment --help")
    answers = site.calls(*((words, setting) for setting in settings for words in commands))
    for helped, check, segment in zip(*[iter(answers)] * 3, strict=True):
        assert_others_go_on(helped, segment)
        assert "stranger" not in helped[1]
        assert (check[0], check[2], segment[2]) == (0, "", "")


def test_one_plugin_can_be_disabled(site):
    site.add("bad-task", ("i2i", "stranger"), source=KINDS["raises on import"][0])
    site.add("bad-addon", ("i2i.extensions", "addon"), source=KINDS["exits on import"][0])
    helped, check = site.calls(("--help", "stranger"), ("plugins check", "stranger"))
    assert "stranger" not in helped[1] + check[1]
    assert check[0] == 1
    assert "addon of bad-addon" in check[1]


def test_info_names_a_broken_extension_and_goes_on(site):
    site.add("bad-addon", ("i2i.extensions", "addon"), source=KINDS["raises in the hook"][0])
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(site.folder / "black.png")
    done = site.run("from i2i.cli import main\nmain(['info', 'black.png'])")
    assert done.returncode == 0, done.stderr
    assert "30 x 20 pixels" in done.stdout
    assert "ZeroDivisionError" in line_with(done.stderr, "warning", "addon of bad-addon")


def test_the_help_imports_no_plugin(site):
    """It shows the docstring's first line, and neither the plugin nor torch is imported."""
    source = '"""Do a strange thing."""\nimport torch, pathlib\npathlib.Path("imported").touch()\n'
    site.add("slow-task", ("i2i", "stranger"), ("i2i.extensions", "addon"), source=source)
    helped, training = site.calls("--help", "train --help")
    assert "Do a strange thing" in line_with(helped[1], "stranger")
    assert "Do a strange thing" in line_with(training[1], "stranger")
    assert not (site.folder / "imported").exists()


@pytest.mark.parametrize("entry", ["faulty.deeper.still", "faulty:missing", "not a module!"])
def test_entry_points_that_lead_nowhere(site, entry):
    site.add("bad-task", ("i2i", "stranger"), module=entry, source=None)
    (site.folder / "faulty.py").write_text("")
    helped, check = site.calls("--help", "plugins check")
    assert helped[0] == 0
    assert "from bad-task" in line_with(helped[1], "stranger")
    assert check[0] == 1
    assert line_with(check[1], "broken", "stranger of bad-task")


def test_a_distribution_without_metadata(site):
    site.add("half-gone", ("i2i", "stranger"), ("i2i.extensions", "addon"), source="")
    (site.folder / "half_gone-1.0.dist-info" / "METADATA").unlink()
    helped, check = site.calls("--help", "plugins check")
    assert helped[0] == 0
    assert "from unknown" in line_with(helped[1], "stranger")
    assert "stranger of unknown" in check[1]


def test_markup_in_a_summary_is_only_text(site):
    site.add("bad-task", ("i2i", "stranger"), source='"""Turn [/left] or [bold]right."""')
    (helped,) = site.calls("--help")
    assert helped[0] == 0
    assert "Turn [/left] or [bold]right" in helped[1]


def test_what_a_plugin_prints_does_not_reach_stdout(site):
    site.add("chatty", ("i2i.extensions", "addon"), source="print('hello')\n" + _API)
    (listed,) = site.calls("plugins list --json")
    assert "addon" in {plugin["name"] for plugin in json.loads(listed[1])["plugins"]}
    assert "hello" in listed[2]


def test_the_names_that_no_task_and_no_option_can_have_are_those_of_the_program():
    from i2i.cli.app import build
    from i2i.cli.run import image_command

    registry = Registry()
    tasks = {command.name for command in installed.commands()}
    assert set(build().list_commands(None)) - tasks == set(installed.RESERVED)
    task = registry.task("segment")
    given = {f"export_{exporter.name}" for exporter in registry.exporters("segment")}
    given |= {item.name for item in dataclasses.fields(task.options)}
    parts = [part for part in image_command(task, registry).params if part.name not in given]
    assert {part.name for part in parts} <= _OWN_NAMES
    assert {flag for part in parts for flag in part.opts if flag.startswith("--")} <= _OWN_FLAGS
