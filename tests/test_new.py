"""`mqasync new`: what it writes works with nothing else done; a mistake is one sentence, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import CommandLine

FILES = [".gitignore", "Dockerfile", "README.md", "config.yml", "hunts.py", "pyproject.toml", "test_hunts.py"]


def test_a_new_service_is_checked_runs_and_passes_its_tests_with_nothing_else_done(cli: CommandLine) -> None:
    # Given a service as it was written
    made = cli.run("new", "hunts")
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"wrote {', '.join(FILES)}; next: cd hunts && mqasync run hunts\n"
    cli.directory /= "hunts"
    assert sorted(os.listdir(cli.directory)) == FILES
    # When it is used as its README says
    checked = cli.run("check", "hunts")
    ran = cli.run("run", "hunts", "--until-idle")
    tested = cli.run("-q", program=[sys.executable, "-m", "pytest"])
    # Then all of it works
    assert checked.returncode == 0 and "warning" not in checked.stdout, checked.stdout
    assert (ran.returncode, ran.stdout) == (0, "10.1.2.3 private\n8.8.8.8 public\n9.9.9.9 public\n"), ran.stderr
    assert "1 in the dead-letter queue of hunts-lines/find; last error: Reject: no address" in ran.stderr
    assert ran.stderr.endswith("; to see more: mqasync dead list hunts-lines find\n")
    assert tested.returncode == 0 and "2 passed" in tested.stdout, tested.stdout


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("-pno:asyncio", "mqasync_service needs pytest-asyncio: pip install 'mqasync[pytest]'"),
        ("-oasyncio_mode=strict", "write `asyncio_mode = auto` below [pytest] in pytest.ini, or mark this test"),
    ],
)
def test_its_tests_say_what_is_missing_to_run_them(cli: CommandLine, option: str, hint: str) -> None:
    cli.run("new", "hunts")
    cli.directory /= "hunts"
    tested = cli.run("-q", option, program=[sys.executable, "-m", "pytest"])
    assert tested.returncode == 1 and hint in tested.stdout.splitlines(), tested.stdout


@pytest.mark.parametrize("what", ["hunts", "hunts:find"])
def test_a_service_that_is_run_from_above_its_directory_says_where_to_go(cli: CommandLine, what: str) -> None:
    assert cli.run("new", "hunts").returncode == 0
    done = cli.run("run", what)
    sentence = "mqasync: 'hunts' is a directory with the service in it: cd hunts first\n"
    assert (done.returncode, done.stderr) == (2, sentence)


@pytest.mark.parametrize("name", ["service", "found", "Match", "h2"])
def test_no_name_of_a_service_is_in_the_way_of_its_own_code(cli: CommandLine, name: str) -> None:
    assert cli.run("new", name).returncode == 0
    cli.directory /= name
    tested = cli.run("-q", program=[sys.executable, "-m", "pytest"])
    assert tested.returncode == 0, tested.stdout


def test_a_service_is_written_into_an_empty_directory_that_exists_and_below_one_that_does_not(cli: CommandLine) -> None:
    (cli.directory / "empty").mkdir()
    for directory in ("empty", "deep/er"):
        assert cli.run("new", directory).returncode == 0
        assert (cli.directory / directory / "config.yml").exists()
    cli.directory /= "here"
    cli.directory.mkdir()
    assert cli.run("new", ".").returncode == 0
    assert (cli.directory / "here.py").exists()


@pytest.mark.parametrize(
    ("directory", "sentence"),
    [
        ("my-hunts", "'my-hunts' cannot be the name of a service; it takes 1 to 64 of A-Z a-z 0-9 _, the first"),
        ("2fast", "'2fast' cannot be"),
        ("class", "'class' cannot be the name of a service; it takes 1 to 64"),
        ("jäger", "'jäger' cannot be"),
        ("a\nb", r"'a\nb' cannot be"),
        ("n" * 65, f"'{'n' * 65}' cannot be"),
        ("/", "'' cannot be"),
        ("json", "'json' is the name of an existing module ("),
        ("msgspec", "'msgspec' is the name of an existing module ("),
        ("full", "'full' is not empty; choose a directory that is empty or does not exist"),
        ("file", "cannot write 'file': File exists"),
        ("file/below", "cannot write 'file/below': Not a directory"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(cli: CommandLine, directory: str, sentence: str) -> None:
    (cli.directory / "full").mkdir()
    cli.file("full/mine.txt", "")
    cli.file("file", "")
    done = cli.run("new", directory)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"mqasync: {sentence}") and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in cli.directory.rglob("*")) == ["file", "full", "mine.txt"]


def test_where_writing_is_not_permitted_one_sentence_says_so(cli: CommandLine, small_disk: Path) -> None:
    (small_disk / "empty").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for directory in (small_disk / "empty", small_disk / "hunts"):
        done = cli.run("new", str(directory))
        assert (done.returncode, done.stderr) == (2, f"mqasync: cannot write '{directory}': Read-only file system\n")
    assert [path.name for path in small_disk.rglob("*")] == ["empty"]


def test_a_disk_that_is_full_half_way_leaves_nothing_behind(cli: CommandLine, small_disk: Path) -> None:
    rest = os.statvfs(small_disk)
    (small_disk / "other").write_bytes(bytes((rest.f_bavail - 3) * rest.f_bsize))  # room for three files
    done = cli.run("new", str(small_disk / "hunts"))
    assert (done.returncode, "No space left on device" in done.stderr) == (2, True), done.stderr
    assert [path.name for path in small_disk.rglob("*")] == ["other"]
