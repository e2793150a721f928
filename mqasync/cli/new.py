"""`mqasync new`: a new service from the plain files in template/; it reads no configuration and opens no broker."""

import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from string import Template

import click

from .. import __version__
from ..errors import ConfigurationError

NAME = re.compile(r"(?=.{1,64}$)[a-z](\w*[a-z0-9])?", re.ASCII | re.IGNORECASE)


@click.command()
@click.argument("directory")
def new(directory: str) -> None:
    """Write a new service to DIRECTORY: handlers, their test, config.yml, Dockerfile, pyproject.toml and README.md.

    The service gets the name of DIRECTORY, which must be empty or not exist yet. It runs as it is, on SQLite.
    """
    try:
        name = Path(directory).absolute().name
        check(name)
        texts = service(name)
        write(Path(directory), texts)
    except OSError as error:
        raise ConfigurationError(f"cannot write {directory!r}: {error.strerror}") from error
    click.echo(f"wrote {', '.join(sorted(texts))}; next: cd {quote(directory)} && mqasync run {name}")


def check(name: str) -> None:
    """Raise ConfigurationError unless a new module, what pip installs and exchanges can have this name."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        rule = "1 to 64 of A-Z a-z 0-9 _, the first a letter, the last not _, and not a Python keyword"
        raise ConfigurationError(f"{name!r} cannot be the name of a service; it takes {rule}")
    taken = find_spec(name)
    if taken and taken.origin:  # a directory without __init__.py has none
        raise ConfigurationError(f"{name!r} is the name of an existing module ({taken.origin}); choose another")


def service(name: str) -> dict[str, str]:
    """The files of a new service, by their names."""
    values = {"name": name, "image": name.lower(), "version": __version__}
    return {
        file.name.removesuffix(".template").replace("service", name): Template(file.read_text()).substitute(values)
        for file in files(__package__).joinpath("template").iterdir()
    }


def write(directory: Path, texts: dict[str, str]) -> None:
    """Write all files or, after an OSError, none. Raises ConfigurationError unless the directory is new or empty."""
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ConfigurationError(f"{str(directory)!r} is not empty; choose a directory that is empty or does not exist")
    try:
        for name, text in texts.items():
            (directory / name).write_text(text, "utf-8")
    except OSError:
        for name in texts:
            (directory / name).unlink(missing_ok=True)
        if is_new:
            directory.rmdir()
        raise
