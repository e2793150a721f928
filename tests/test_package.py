"""The wheel and the sdist: what is in them, how PyPI shows them, and that they work where nothing else is installed."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from mqasync import __version__
from mqasync.transports import SCHEMES

from . import image
from .brokers import BrokerUnavailable, free_port
from .conftest import unavailable

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " :: 3." in line]
URLS = {extra: f"{scheme}://host" for scheme, (_, _, extra) in SCHEMES.items() if "+" not in scheme}
USE = {extra: f"from mqasync.transports import load; load('{url}')" for extra, url in URLS.items()}
USE |= {  # of what each extra brings
    "cth": "from mqasync.cli import main; main(['run', 'services.cth', '--until-idle'])",
    "http": f"from mqasync.cli import main; main(['run', 'services.hello', '--until-idle', '--http', '{free_port()}'])",
    "pydantic": "import pydantic, mqasync",
    "pytest": "import pytest_asyncio, mqasync.testing",
    "reload": "from mqasync.service import workers; import watchfiles",
    "telemetry": "import opentelemetry.sdk.trace.export, opentelemetry.exporter.otlp.proto.http.trace_exporter",
}


def command(*words: str | Path, cwd: Path) -> str:
    """What it prints; nothing of this environment's Python, nor of this directory, is in its way."""
    own = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MQASYNC_", "PYTEST_", "PYTHON", "VIRTUAL"))
    }
    done = subprocess.run(
        words, cwd=cwd, env=own | {"MQASYNC_LOG": "human"}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was made from it."""
    directory = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, cwd=ROOT)
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return message_from_bytes(archive.read(name))


def test_pypi_takes_and_shows_both(built: Path) -> None:
    command(BIN / "twine", "check", "--strict", *built.iterdir(), cwd=built)


def test_every_link_and_picture_of_the_readme_leads_to_a_file_of_the_repository(metadata: Message) -> None:
    source = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))["Source"]
    pages = source + "/blob/main/"
    pictures = source.replace("github.com", "raw.githubusercontent.com") + "/main/"
    links = re.findall(r"""(?:\]\(|(?:src|srcset|href)=")([^)"#]+)""", str(metadata.get_payload()))
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://"), link
        for start in (pages, pictures):
            if link.startswith(start):
                assert (ROOT / link.removeprefix(start)).exists(), link


def test_the_sdist_is_what_git_knows_and_nothing_else(built: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("NOT TESTED: no git repository, this is an sdist itself")
    known = command("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    wanted = {name for name in known if (ROOT / name).exists() and not name.startswith(".ci/")}
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        there = {file.name.partition("/")[2] for file in archive if file.isfile()}
    assert there == wanted | {"PKG-INFO"}


def test_the_wheel_is_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"mqasync", f"mqasync-{__version__}.dist-info"}
    assert {"mqasync/py.typed", "mqasync/cli/template/Dockerfile.template"} <= set(names)


def interpreter(version: str) -> str:
    """The path of Python `version`; where it cannot be had the test is skipped."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    here = os.environ | {"PYENV_VERSION": version, "UV_PYTHON_DOWNLOADS": "never"}  # pyenv has many, and one at a time
    found = subprocess.run(
        [BIN / "uv", "python", "find", version], env=here, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"NOT TESTED: Python {version} is not installed on this machine")
    return found.stdout.strip()


def environment(directory: Path, python: str, *packages: str | Path) -> Path:
    """The programs of a new environment with nothing but `packages`."""
    command(BIN / "uv", "venv", "--quiet", "--python", python, directory / "venv", cwd=directory)
    programs = directory / "venv" / "bin"
    command(BIN / "uv", "pip", "install", "--quiet", "--python", programs / "python", *packages, cwd=directory)
    return programs


@pytest.mark.parametrize("python", PYTHONS)
def test_the_wheel_works_in_an_empty_environment_on_every_python(python: str, wheel: Path, tmp_path: Path) -> None:
    # Given an environment with the wheel and no more
    programs = environment(tmp_path, interpreter(python), wheel)
    where = command(programs / "python", "-c", "import mqasync; print(mqasync.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path))
    # When a new service is made, checked and run
    assert "check" in command(programs / "mqasync", "--help", cwd=tmp_path)
    command(programs / "mqasync", "new", "hunts", cwd=tmp_path)
    command(programs / "mqasync", "check", "hunts", cwd=tmp_path / "hunts")
    printed = command(programs / "mqasync", "run", "hunts", "--until-idle", cwd=tmp_path / "hunts")
    # Then it works, and pytest finds the plugin
    assert printed == "10.1.2.3 private\n8.8.8.8 public\n9.9.9.9 public\n"
    command(BIN / "uv", "pip", "install", "--quiet", "--python", programs / "python", f"{wheel}[pytest]", cwd=tmp_path)
    assert "2 passed" in command(programs / "pytest", "-q", cwd=tmp_path / "hunts")


@pytest.mark.parametrize("extra", [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"])
def test_an_extra_brings_all_that_its_part_needs(extra: str, wheel: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "services", tmp_path / "services")
    programs = environment(tmp_path, sys.executable, f"{wheel}[{extra}]")
    command(programs / "python", "-c", USE[extra], cwd=tmp_path)


@pytest.mark.timeout(300)
def test_the_image_of_a_new_service_is_built_and_does_its_work(
    wheel: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Given a new service, whose Dockerfile is a good one
    service = tmp_path_factory.mktemp("services") / "hunts"
    command(BIN / "mqasync", "new", service, cwd=tmp_path)
    command(BIN / "hadolint", "Dockerfile", cwd=service)
    # When its steps are carried out, with this wheel instead of PyPI's, and the image is run on a read-only root
    stage = image.stages(service)[-1]
    words = [*stage.words["ENTRYPOINT"], *stage.words["CMD"], "--until-idle"]
    try:
        script = image.build_and_run(tmp_path, [image.inside(stage, tmp_path, words, MQASYNC_HTTP="")], service)
    except BrokerUnavailable as error:
        unavailable(error)
    done = image.run(tmp_path, f"export PIP_FIND_LINKS={wheel.parent}\n{script}")
    # Then it has handled its messages
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith("10.1.2.3 private\n8.8.8.8 public\n9.9.9.9 public\n")
