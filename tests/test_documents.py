"""The code blocks of the README and of docs/, run in order in an empty directory: they print what is shown."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def pattern(expected: list[str]) -> str:
    """A regular expression for lines of output: `...` stands for anything, alone on its line for any lines."""
    any_lines, anything = r"(?:.*\n)*?", r".*"
    lines = [re.escape(line).replace(re.escape("..."), anything) + r"\n" for line in expected]
    return "".join(any_lines if line == anything + r"\n" else line for line in lines)


def documents() -> list[Path]:
    """Those that show what commands print."""
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if shown(path)]


def shown(path: Path) -> list[re.Match[str]]:
    """The blocks of a document to be written or run."""
    found = list(BLOCK.finditer(path.read_text()))
    return found if any(block["language"] == "console" for block in found) else []


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_every_block_does_what_it_shows(document: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "services", tmp_path / "services")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MQASYNC_", "PYTEST_"))}
    environment["MQASYNC_LOG"] = "human"  # as on a terminal
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for block in shown(document):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"])
        if block["language"] != "console":
            continue
        lines = block["text"].splitlines()
        commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        expected = [line for line in lines if not line.startswith("$ ")]
        done = subprocess.run(
            ["bash", "-c", "exec 2>&1\n" + "\n".join(commands)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert re.fullmatch(pattern(expected), done.stdout), f"{commands} printed\n{done.stdout}"


def test_a_block_that_shows_something_else_is_found() -> None:
    assert re.fullmatch(pattern(["a ... c", "...", "end"]), "a b c\n1\n2\nend\n")
    assert not re.fullmatch(pattern(["a ... c", "end"]), "a b d\nend\n")
    assert {path.name for path in documents()} >= {"README.md"}
