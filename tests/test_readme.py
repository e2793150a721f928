"""The README's code blocks, written and run in order in an empty directory, with the output that it shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def pattern(expected: list[str]) -> str:
    """A regular expression for lines of output: `...` stands for anything, alone on its line for any lines."""
    any_lines, anything = r"(?:.*\n)*?", r".*"
    lines = [re.escape(line).replace(re.escape("..."), anything) + r"\n" for line in expected]
    return "".join(any_lines if line == anything + r"\n" else line for line in lines)


def test_every_block_of_the_readme_does_what_it_shows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "services", tmp_path / "services")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MQASYNC_", "PYTEST_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ran = 0
    for block in BLOCK.finditer((ROOT / "README.md").read_text()):
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
        ran += 1
    assert ran == 9
