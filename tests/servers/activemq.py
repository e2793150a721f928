"""A real ActiveMQ Classic for tests: installed where it is missing, started, killed; asserts nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..brokers import START_SECONDS, BrokerUnavailable, apt_install, free_port

HOME = Path("/usr/share/activemq")
JARS = Path("/usr/share/java")

# What a user's activemq.xml needs is the STOMP connector and statisticsBrokerPlugin; KahaDB syncs every
# transaction to the disk unless it is told otherwise.
XML = """<beans xmlns="http://www.springframework.org/schema/beans"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans
    http://www.springframework.org/schema/beans/spring-beans.xsd
    http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="test" persistent="{persistent}"
      useJmx="false" schedulerSupport="true" dataDirectory="{data}">
    <persistenceAdapter><kahaDB directory="{data}/kahadb" journalMaxFileLength="4mb"/></persistenceAdapter>
    <systemUsage><systemUsage>
      <memoryUsage><memoryUsage limit="{memory}"/></memoryUsage>
      <storeUsage><storeUsage limit="2 gb"/></storeUsage>
      <tempUsage><tempUsage limit="256 mb"/></tempUsage>
      <jobSchedulerUsage><jobSchedulerUsage limit="256 mb"/></jobSchedulerUsage>
    </systemUsage></systemUsage>
    {policies}
    <plugins>{plugins}</plugins>
    {more}
    <transportConnectors>
      <transportConnector name="stomp" uri="{scheme}://127.0.0.1:{port}?transport.tcpNoDelay=true"/>
    </transportConnectors>
  </broker>
</beans>
"""
# Without flow control messages wait on the disk; with it a full memory stops publishers, and who cannot publish
# what comes of a message does not acknowledge that either. With the usual maxPageSize of 200, ActiveMQ 5.17 sometimes
# stops at 600 unsettled messages of a queue until one is acknowledged or another comes (34 of 60 times here).
POLICIES = """<destinationPolicy><policyMap><policyEntries>
      <policyEntry queue="&gt;" producerFlowControl="false" memoryLimit="4mb" maxPageSize="2000"/>
      <policyEntry topic="&gt;" producerFlowControl="false"/>
    </policyEntries></policyMap></destinationPolicy>"""
STATISTICS = "<statisticsBrokerPlugin/>"


def install() -> None:
    """Install Debian's packages where they are missing; those that only make statistics readable included."""
    if not (HOME / "bin" / "activemq.jar").exists() or not shutil.which("java"):
        apt_install("activemq")
    for package, jar in (("libxstream-java", "xstream.jar"), ("libjettison-java", "jettison.jar")):
        if not (JARS / jar).exists():
            apt_install(package)


class ActiveMQ:
    """One private ActiveMQ that can be killed and started again on the same port and data.

    `plugins` and `more` go into its XML; with `scheme="stomp+ssl"`, `more` holds the sslContext.
    """

    def __init__(
        self,
        directory: Path,
        plugins: str = STATISTICS,
        more: str = "",
        persistent: bool = True,
        scheme: str = "stomp",
        policies: str = POLICIES,
        memory: str = "128 mb",
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"activemq{'s' if scheme == 'stomp+ssl' else ''}://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "activemq.xml").write_text(
            XML.format(
                data=directory / "data",
                port=self.port,
                plugins=plugins,
                more=more,
                policies=policies,
                memory=memory,
                scheme=scheme,
                persistent=str(persistent).lower(),
            )
        )

    def start(self) -> None:
        """Return when the port accepts."""
        jars = [HOME / "lib" / "*", HOME / "lib" / "optional" / "*", *(JARS / f"{name}.jar" for name in EXTRA_JARS)]
        command = ["java", "-Xms64M", "-Xmx512M", f"-Dactivemq.home={HOME}", f"-Dactivemq.base={self.directory}"]
        command += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, jars))]
        command += ["org.apache.activemq.console.Main", "start", f"xbean:file:{self.directory}/activemq.xml"]
        with (self.directory / "console").open("wb") as console:
            self.process = subprocess.Popen(
                command, stdout=console, stderr=console, start_new_session=True, cwd=self.directory, env=ENVIRONMENT
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "console").read_text(errors="replace")
                raise BrokerUnavailable(f"ActiveMQ did not start: {log[-1500:]}")
            time.sleep(0.05)

    def pause(self) -> None:
        """SIGSTOP: it accepts and does not answer, until `go_on` or `kill`."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as a power cut would end it."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process and self.process.poll() is None:
            self.kill()


EXTRA_JARS = ("xstream", "jettison", "xpp3", "commons-logging", "xbean-spring", "xbean-reflect")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ACTIVEMQ_")}


@contextmanager
def running_activemq(**settings: object) -> Iterator[ActiveMQ]:
    """A running ActiveMQ, installed first where it is missing; `settings` are those of ActiveMQ."""
    install()
    with tempfile.TemporaryDirectory(prefix="mqasync-activemq-") as directory:
        server = ActiveMQ(Path(directory), **settings)  # type: ignore[arg-type]
        try:
            server.start()
            yield server
        finally:
            server.stop()
