"""A real ActiveMQ Classic for tests: installed where it is missing, started, killed; asserts nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..brokers import apt_install
from .server import Server, running

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


class ActiveMQ(Server):
    """One private ActiveMQ that can be killed and started again on the same port and data.

    `plugins` and `more` go into its XML; with `scheme="stomp+ssl"`, `more` holds the sslContext.
    """

    name = "ActiveMQ"

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
        super().__init__(directory)
        self.url = f"activemq{'s' if scheme == 'stomp+ssl' else ''}://127.0.0.1:{self.port}"
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
        self.launch(command, self.accepts, cwd=self.directory, env=ENVIRONMENT)


EXTRA_JARS = ("xstream", "jettison", "xpp3", "commons-logging", "xbean-spring", "xbean-reflect")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ACTIVEMQ_")}


@contextmanager
def running_activemq(**settings: object) -> Iterator[ActiveMQ]:
    """A running ActiveMQ, installed first where it is missing; `settings` are those of ActiveMQ."""
    install()
    with running(lambda directory: ActiveMQ(directory, **settings)) as server:  # type: ignore[arg-type]
        yield server
