"""The generated documents are those of the code, and leave nothing unexplained."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from spreadflow.config import Config
from spreadflow.io import schema

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.stage
def test_committed_documents_are_current():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def sections(node: BaseModel):
    yield type(node)
    for name in type(node).model_fields:
        for value in _below(getattr(node, name)):
            yield from sections(value)


def _below(value):
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _below(item)


def test_every_key_and_dataset_has_a_meaning():
    silent = [
        f"{s.__name__}.{n}"
        for s in sections(Config())
        for n, f in s.model_fields.items()
        if not f.description
    ]
    silent += [
        f"{kind}: {name}"
        for kind, columns in schema.FILES.items()
        for name, d in columns.items()
        if not d.meaning
    ]
    assert silent == []
