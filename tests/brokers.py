"""Real brokers for tests and benchmarks: installs and starts them; asserts nothing.

Each broker gets a free port and a data directory of its own, and only the processes
started here are ended. By hand: `python -m tests.brokers` starts a RabbitMQ,
prints its URL and stops it on Ctrl-C.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 90.0


class BrokerUnavailable(Exception):
    """The broker cannot be had on this machine; the text says why."""


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on now.

    It is below those of outgoing connections: no client that tries to reconnect gets it while its server is down.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def apt_install(package: str) -> None:
    """Install one Debian package; needs root."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise BrokerUnavailable(f"{package} is not installed, and installing it takes apt-get and root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with (Path(tempfile.gettempdir()) / "mqasync-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the suite runs in more than one process
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", package]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokerUnavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


class RabbitMQ:
    """One private RabbitMQ node that can be killed and started again on the same port and data."""

    def __init__(self, directory: Path, configuration: str = "", management: bool = False) -> None:
        self.directory = directory
        self.port = free_port()
        self.management = f"http://127.0.0.1:{free_port()}" if management else ""
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"mqasync{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
        }
        (directory / "plugins").write_text("[rabbitmq_management].\n" if management else "[].\n")
        if management:
            port = self.management.rpartition(":")[2]
            configuration += f"\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
        # how soon a message that expired in a retry queue while its queue had no leader is passed on again
        # (RabbitMQ's default is three minutes; README.md recommends this)
        (directory / "advanced.config").write_text(
            "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 2000}]}]."
        )
        (directory / "rabbitmq.conf").write_text(
            f"vm_memory_high_watermark.absolute = 2GB\ndisk_free_limit.absolute = 50MB\n{configuration}"
        )

    @staticmethod
    def program(name: str) -> str:
        """The server's own script; Debian's wrapper in /usr/sbin would change the user."""
        found = sorted(Path("/usr/lib/rabbitmq/lib").glob(f"rabbitmq_server-*/sbin/{name}"))
        return str(found[-1]) if found else (shutil.which(name) or "")

    def start(self) -> None:
        """Return when the port accepts and the node has booted."""
        with (self.directory / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [self.program("rabbitmq-server")],
                env=self.environment,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while b"completed with" not in (self.directory / "console").read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "console").read_text(errors="replace")
                raise BrokerUnavailable(f"RabbitMQ did not start: {log[-600:]}")
            time.sleep(0.1)

    def restart(self) -> None:
        """Start again after `kill`; return when every quorum queue has a leader.

        A single node sometimes elects none, for ever (github.com/rabbitmq/rabbitmq-server/issues/10070);
        the remedy is from there.
        """
        self.start()
        self.elect()

    def elect(self) -> None:
        """See restart."""
        queues = "{Name, _} <- ra_directory:list_registered(quorum_queues)"
        leaderless = f"{queues}, ra_leaderboard:lookup_leader(Name) =:= undefined"
        elect = f"[begin ra:trigger_election({{Name, node()}}), Name end || {leaderless}]."
        for _ in range(30):
            if self.control("eval", elect).strip() == "[]":
                return
        raise BrokerUnavailable("RabbitMQ elects no leader for its quorum queues")

    def set(self, **parameters: int) -> None:
        """Set parameters of the running server that its command line does not offer."""
        for name, value in parameters.items():
            self.control("eval", f"application:set_env(rabbit, {name}, {value}).")

    def control(self, *words: str) -> str:
        """Run rabbitmqctl against this node and return what it prints."""
        command = [self.program("rabbitmqctl"), "-q", "-n", self.environment["RABBITMQ_NODENAME"], *words]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def pause(self) -> None:
        """SIGSTOP the node: it accepts and does not answer, until `go_on` or `kill`."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL the node, as a power cut would."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        (self.directory / "console").write_bytes(b"")

    def heal(self) -> None:
        """Make it run as at first, whatever a test did to it."""
        assert self.process
        if self.process.poll() is None:
            self.go_on()
        else:
            (self.directory / "console").write_bytes(b"")
            self.restart()

    def stop(self) -> None:
        """End the node and the name server (epmd) that it started."""
        if self.process and self.process.poll() is None:
            self.kill()
        for _ in range(50):  # it refuses until it has noticed that the node is gone
            if not subprocess.run(["epmd", "-kill"], env=self.environment, capture_output=True, check=False).returncode:
                return
            time.sleep(0.1)


@contextmanager
def rabbitmq(configuration: str = "", management: bool = False) -> Iterator[RabbitMQ]:
    """A running RabbitMQ, installed first where it is missing; `configuration` is added to its rabbitmq.conf.

    With `management` the plugin of that name answers at its address `management`.
    """
    if not RabbitMQ.program("rabbitmq-server"):
        apt_install("rabbitmq-server")
    with tempfile.TemporaryDirectory(prefix="mqasync-rabbitmq-") as directory:
        broker = RabbitMQ(Path(directory), configuration, management)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


if __name__ == "__main__":
    with rabbitmq() as running:
        print(running.url, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(0)
