"""Inputs and finished results of commands, which the tests of processes share."""

import shutil
from pathlib import Path

import commands
import pytest


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of `commands.COMMANDS`."""
    folder = tmp_path_factory.mktemp("inputs")
    commands.write_inputs(folder)
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of the inputs. The checkpoint is a link."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(commands.WEIGHTS))
    (tmp_path / commands.WEIGHTS).hardlink_to(inputs / commands.WEIGHTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path
