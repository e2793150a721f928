"""A private PostgreSQL that can be killed and started again, and a PgBouncer before it; nothing is asserted here."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..brokers import START_SECONDS, BrokerUnavailable, apt_install
from .server import Server, running

USER = "postgres"  # who runs it where the tests are run by root, as whom it refuses
OURS = "FROM pg_stat_activity WHERE application_name = 'mqasync'"


class Postgres(Server):
    """One server with the role mqasync and its password, which may do everything in the database postgres."""

    name = "PostgreSQL"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.password = secrets.token_hex(8)
        self.address = f"127.0.0.1:{self.port}/postgres"
        self.login = f"postgresql://mqasync:{self.password}@{self.address}"
        self.url = f"{self.login}?sslmode=off"
        # not `runuser`, which would stand between us and the server: a SIGKILL has to reach the server itself
        self.user: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}

    @staticmethod
    def program(name: str) -> str:
        """The newest of the installed versions; Debian's wrappers in /usr/bin know clusters of their own only."""
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
        return str(found[-1]) if found else ""

    def make(self) -> None:
        """Make the data directory, with every setting as it comes."""
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        self.own(self.directory, password_file)
        command = [self.program("initdb"), "--pgdata", str(self.directory / "data"), "--username", "mqasync"]
        options = ["--auth", "scram-sha-256", "--pwfile", str(password_file), "--encoding", "UTF8", "--no-sync"]
        done = subprocess.run([*command, *options], cwd="/", capture_output=True, text=True, check=False, **self.user)
        if done.returncode:
            raise BrokerUnavailable(f"initdb failed: {done.stderr[-600:]}")

    def own(self, *paths: Path) -> None:
        """Give the files to who runs the server, and to nobody else."""
        for path in paths:
            path.chmod(0o700 if path.is_dir() else 0o600)
            if self.user:
                entry = pwd.getpwnam(USER)
                os.chown(path, entry.pw_uid, entry.pw_gid)

    def start(self, **settings: str) -> None:
        """Return when it accepts connections, after a crash too; `settings` are for this run."""
        if not (self.directory / "data").exists():
            self.make()
        given = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", **settings}
        command = [self.program("postgres"), "-D", str(self.directory / "data")]
        for name, value in given.items():
            command += ["-c", f"{name}={value}"]
        ready = [self.program("pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", str(self.port)]
        self.launch(command, lambda: not subprocess.run(ready, check=False).returncode, cwd="/", **self.user)

    def execute(self, statement: str) -> str:
        """Run one statement as an administrator and return what it gives."""
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", statement, self.login]
        command = [self.program("psql"), *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    def set(self, **settings: str) -> None:
        """Change settings of the running server."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = {value}")
        self.execute("SELECT pg_reload_conf()")
        for name, value in settings.items():
            deadline = time.monotonic() + START_SECONDS
            while self.execute(f"SHOW {name}") != value:
                assert time.monotonic() < deadline, f"{name} does not become {value}"
                time.sleep(0.05)

    def end_connections(self) -> None:
        """End every connection of mqasync, as an administrator may."""
        self.execute(f"SELECT pg_terminate_backend(pid) {OURS}")

    def crash(self) -> None:
        """SIGKILL one of its processes that serve mqasync: PostgreSQL ends all of them, and recovers."""
        os.kill(int(self.execute(f"SELECT pid {OURS} LIMIT 1")), signal.SIGKILL)


class PgBouncer(Server):
    """A pooler in front of a server; `more` are lines of its configuration."""

    name = "PgBouncer"

    def __init__(self, directory: Path, behind: Postgres, mode: str, more: str) -> None:
        super().__init__(directory)
        self.behind, self.mode, self.more = behind, mode, more
        self.url = behind.url.replace(f":{behind.port}/", f":{self.port}/")

    def start(self) -> None:
        """Return when it accepts connections."""
        users, settings = self.directory / "users", self.directory / "settings"
        users.write_text(f'"mqasync" "{self.behind.password}"')
        settings.write_text(f"""
            [databases]
            * = host=127.0.0.1 port={self.behind.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {users}
            pool_mode = {self.mode}
            {self.more}
        """)
        self.behind.own(self.directory, users, settings)
        self.launch(["pgbouncer", str(settings)], self.accepts, cwd="/", **self.behind.user)


@contextmanager
def running_pgbouncer(behind: Postgres, mode: str, more: str = "") -> Iterator[PgBouncer]:
    """A running PgBouncer, installed first where it is missing."""
    if not shutil.which("pgbouncer"):
        apt_install("pgbouncer")
    with running(lambda directory: PgBouncer(directory, behind, mode, more)) as pooler:
        yield pooler


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A running PostgreSQL, installed first where it is missing."""
    if not Postgres.program("postgres"):
        apt_install("postgresql")
    with running(Postgres) as server:
        yield server
