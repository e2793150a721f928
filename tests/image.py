"""The Dockerfile carried out without a container engine: each stage in an overlay of this machine's own root; no test.

The base image is this machine: what its `python:3.11-slim` has, Python and useradd, is taken from here. It takes root
and Linux: a mount namespace keeps everything that is mounted or written away from the machine itself.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .brokers import BrokerUnavailable

ROOT = Path(__file__).parents[1]


class Stage:
    """What one stage of the Dockerfile says; `script` carries it out in the directory $1/NAME."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment: dict[str, str] = {}
        self.words: dict[str, list[str]] = {}  # of ENTRYPOINT, CMD and HEALTHCHECK
        self.user = "0"
        self.directory = "/"
        self.script: list[str] = []


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Name and arguments, lines that go on put together."""
    for line in re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


def stages(context: Path = ROOT) -> list[Stage]:
    """The stages of the Dockerfile in that directory, in order."""
    found: list[Stage] = []
    for name, arguments in instructions((context / "Dockerfile").read_text()):
        if name == "FROM":
            found.append(Stage(arguments.partition(" AS ")[2] or "final"))
            continue
        stage = found[-1]
        if name == "WORKDIR":
            stage.directory = arguments
            stage.script.append(f'mkdir -p "$1/{stage.name}{arguments}"')
        elif name == "COPY":
            stage.script += copy(context, stage, shlex.split(arguments))
        elif name == "RUN":
            inside = f"cd {stage.directory} && {arguments}"
            stage.script.append(f'chroot "$1/{stage.name}" /bin/sh -ec {shlex.quote(inside)}')
        elif name == "USER":
            stage.user = arguments
        elif name == "ENV":
            stage.environment |= dict(word.split("=", 1) for word in shlex.split(arguments))
        elif name in ("ENTRYPOINT", "CMD"):
            stage.words[name] = json.loads(arguments)
        elif name == "HEALTHCHECK":
            stage.words[name] = json.loads(arguments.partition("CMD ")[2])
        else:
            assert name in ("LABEL", "VOLUME", "EXPOSE"), f"{name} is not carried out here"
    return found


def copy(context: Path, stage: Stage, words: list[str]) -> Iterator[str]:
    """Shell commands for one COPY, from the context (only what .dockerignore lets in) or from another stage."""
    origin = f'"$1/{words.pop(0).partition("=")[2]}"' if words[0].startswith("--from=") else ""
    *sources, target = words
    ignore = context / ".dockerignore"
    allowed = {line[1:] for line in ignore.read_text().splitlines() if line.startswith("!")} if ignore.exists() else {}
    into = target if target.startswith("/") else f"{stage.directory}/{target}"
    for source in sources:
        assert origin or not allowed or source in allowed, f".dockerignore keeps {source} out"
        path = f"{origin}{source}" if origin else shlex.quote(str(context / source))
        # a directory's content goes into the target, a file into the directory or under the name
        yield f'if [ -d {path} ]; then mkdir -p "$1/{stage.name}{into}"; cp -a {path}/. "$1/{stage.name}{into}/"; ' + (
            f'else cp -a {path} "$1/{stage.name}{into}"; fi'
        )


def build_and_run(directory: Path, then: list[str], context: Path = ROOT) -> str:
    """A script that builds all stages below `directory`, makes the last one read-only (not /tmp and /data)."""
    mounted = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(directory)]
    if not shutil.which("unshare") or subprocess.run(mounted, capture_output=True, check=False).returncode:
        raise BrokerUnavailable("carrying out the Dockerfile takes Linux and the right to mount in a namespace")
    lines = ["set -e", f"mount -t tmpfs tmpfs {directory}"]
    for stage in stages(context):
        lower, upper, work = (f"{directory}/{stage.name}{suffix}" for suffix in ("", ".upper", ".work"))
        lines += [
            f"mkdir -p {lower} {upper} {work}",
            f"mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={work} {lower}",
            f"mount --rbind /dev {lower}/dev; mount -t proc proc {lower}/proc",
            f"chmod 755 {lower}/root",  # this machine's Python may be root's own
            *stage.script,
        ]
    lines += [
        f"mount -t tmpfs -o mode=1777 tmpfs {lower}/tmp",
        f"mount -t tmpfs -o uid={stage.user},mode=700 tmpfs {lower}/data",
        f"mount -o remount,ro {lower}",
        *then,
    ]
    return "\n".join(lines)


def inside(stage: Stage, directory: Path, words: list[str], **environment: str) -> str:
    """A shell command that runs `words` as the container would, as process 1 of its own."""
    python = Path(sys.executable).resolve().parent
    given = {**stage.environment, **environment}
    given["PATH"] = given.get("PATH", "$PATH").replace("$PATH", f"{python}:/usr/local/bin:/usr/bin:/bin")
    variables = " ".join(shlex.quote(f"{name}={value}") for name, value in given.items())
    command = f"cd {stage.directory} && exec env -i {variables} {shlex.join(words)}"
    root = f"--userspec={stage.user}:{stage.user} {directory}/{stage.name}"
    return f"unshare --pid --fork --kill-child chroot {root} /bin/sh -c {shlex.quote(command)}"


def run(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """The script in a mount namespace of its own, which takes with it whatever the script has started."""
    python = Path(sys.executable).resolve().parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MQASYNC_", "PYTHON"))}
    return subprocess.run(
        [
            "unshare",
            "--mount-proc",
            "--pid",
            "--fork",
            "--kill-child",
            "/bin/bash",
            "-c",
            script,
            "bash",
            str(directory),
        ],
        env={**environment, "PATH": f"{python}:{environment['PATH']}", "HOME": "/root"},
        capture_output=True,
        text=True,
        check=False,
    )
