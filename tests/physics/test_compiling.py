"""How loops are compiled, and where what was compiled is kept."""

import ast
import tempfile
from pathlib import Path

import pytest

import spreadflow
from spreadflow.physics import compiling

SOURCES = sorted(Path(spreadflow.__file__).parent.glob("*/**/*.py"))
LOOPS = [path for path in SOURCES if path.name.endswith("loops.py")]


def compiled_functions(path: Path) -> dict[str, tuple[str, ast.FunctionDef]]:
    """Name of each compiled function of a module → its decorator, and the function."""
    functions = [node for node in ast.parse(path.read_text()).body if _is_decorated(node)]
    return {f.name: (ast.unparse(f.decorator_list[0]), f) for f in functions}


def _is_decorated(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and bool(node.decorator_list)


def test_modules_of_compiled_loops_are_told_by_their_names():
    """Their state is in the name of the folder where what was compiled is kept."""
    compiled = [path for path in SOURCES if "physics.compiling import" in path.read_text()]
    assert len(compiled) > 5
    assert compiled == [path for path in LOOPS if compiled_functions(path)]
    assert [path.name for path in SOURCES if "import numba" in path.read_text()] == ["compiling.py"]


def imported_functions(path: Path) -> dict[str, tuple[str, ast.FunctionDef]]:
    """The same of functions that a module takes from others of compiled loops, by their names in
    it.
    """
    functions = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("spreadflow."):
            source = compiling.PACKAGE.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
            of_source = compiled_functions(source) if source in LOOPS else {}
            for alias in node.names:
                assert not alias.name.endswith("loops"), "take functions, not the module"
                if alias.name in of_source:
                    functions[alias.asname or alias.name] = of_source[alias.name]
    return functions


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_compiled_functions_call_is_compiled_into_them(path):
    """Otherwise results depend on whether a process compiles or reads the cache."""
    own = compiled_functions(path)
    functions = imported_functions(path) | own
    for _, caller in own.values():
        calls = [node.func for node in ast.walk(caller) if isinstance(node, ast.Call)]
        called = {call.id for call in calls if isinstance(call, ast.Name)}
        for name in called & functions.keys():
            assert functions[name][0] in ("inlined", "inlined_in_order"), (caller.name, name)


def test_what_is_imported_is_looked_at_too():
    by_name = {path.stem: path for path in LOOPS}
    assert "exp" in imported_functions(by_name["component_loops"])
    assert "judge" in imported_functions(by_name["step_loops"])


def test_what_is_compiled_is_kept_where_a_folder_takes_it(tmp_path, monkeypatch):
    """Nobody can write to /proc, not even root."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert compiling._cache_folder().parent == tmp_path

    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    assert compiling._cache_folder() is None


def test_another_state_of_the_loops_has_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "analysis").mkdir()
    loops = tmp_path / "analysis" / "new_loops.py"
    constants = tmp_path / "analysis" / "constants.py"
    loops.write_text("from spreadflow.analysis.constants import LARGEST\n")
    constants.write_text("LARGEST = 1")
    monkeypatch.setattr(compiling, "PACKAGE", tmp_path)
    before = compiling._state()
    loops.write_text("from spreadflow.analysis.constants import LARGEST\nTWICE = 2 * LARGEST")
    changed = compiling._state()
    assert changed != before
    constants.write_text("LARGEST = 2")
    assert compiling._state() not in (before, changed)
    constants.write_text("LARGEST = 1")
    assert compiling._state() == changed
