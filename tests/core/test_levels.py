"""A module imports only from lower levels, and the engine never imports a plugin."""

from __future__ import annotations

from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[2]


def test_import_levels():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_core_module_has_a_level():
    """A new module must be given a place, or the test above says nothing about it."""
    stated = (ROOT / "pyproject.toml").read_text()
    layers = stated[stated.index("layers = [") : stated.index("]", stated.index("layers = ["))]
    modules = {
        path.stem if path.suffix else path.name for path in (ROOT / "i2i").iterdir() if not path.name.startswith(("_", "."))
    }
    missing = {name for name in modules - {"py"} if f"i2i.{name}" not in layers}
    assert not missing, f"give a level in pyproject.toml to: {', '.join(sorted(missing))}"


def test_a_broken_level_is_noticed(tmp_path, monkeypatch):
    """The negative control: the same contract over a package that breaks it."""
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "low.py").write_text("from house import high\n")
    (package / "high.py").write_text("")
    config = tmp_path / "levels.toml"
    config.write_text(
        '[tool.importlinter]\nroot_package = "house"\n[[tool.importlinter.contracts]]\nname = "levels"\ntype = "layers"\n'
        'layers = ["house.high", "house.low"]\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert lint_imports(config_filename=str(config), no_cache=True) != EXIT_STATUS_SUCCESS
