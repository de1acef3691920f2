"""Where compiled loops are kept."""

from pathlib import Path

import spreadflow
from spreadflow.physics import compiling


def test_modules_of_compiled_loops_are_told_by_their_names():
    """Their state is in the name of the folder where what was compiled is kept."""
    sources = Path(spreadflow.__file__).parent.glob("*/**/*.py")
    compiled = [path for path in sources if "\nimport numba" in path.read_text()]
    assert len(compiled) > 5
    assert [path for path in compiled if not path.name.endswith("loops.py")] == []


def test_another_state_of_the_loops_has_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "analysis").mkdir()
    path = tmp_path / "analysis" / "new_loops.py"
    monkeypatch.setattr(compiling, "PACKAGE", tmp_path)
    path.write_text("one")
    before = compiling._state()
    path.write_text("another")
    assert compiling._state() != before
    path.write_text("one")
    assert compiling._state() == before
