"""Apache Kafka, one node without ZooKeeper, from Maven Central; asserts nothing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ..brokers import BrokerUnavailable, free_port
from .server import Server, running

VERSION = "4.1.1"
JAVA_OPTIONS = ("-Xmx512m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mqasync-kafka"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>mqasync</groupId>
  <artifactId>kafka-server</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""
# auto.create.topics.enable stays at its default, true: nothing may depend on its being off
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""


def class_path() -> str:
    """The jars of the server, fetched by Maven where they are missing."""
    for program in ("java", "mvn"):
        if not shutil.which(program):
            raise BrokerUnavailable(f"Kafka takes Java 17 and Maven; {program} is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    kept = CACHE / f"classpath-{VERSION}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the suite runs in more than one process
        if not kept.exists() or not all(Path(jar).exists() for jar in kept.read_text().split(":")):
            (CACHE / "pom.xml").write_text(POM)
            command = ["mvn", "-q", "-B", "dependency:build-classpath", f"-Dmdep.outputFile={kept}.new"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokerUnavailable(f"Maven cannot fetch Kafka: {done.stdout.strip()[-300:]}")
            Path(f"{kept}.new").rename(kept)
    return kept.read_text()


class Kafka(Server):
    """One private Kafka node that can be killed and started again on the same port and data.

    `properties` come after its own, and may say {port}, {controller} and {directory} as they do.
    """

    name = "Kafka"

    def __init__(self, directory: Path, properties: str = "") -> None:
        super().__init__(directory)
        self.url = f"kafka://127.0.0.1:{self.port}?session=3"
        self._class_path = class_path()
        self._properties = directory / "server.properties"
        self._properties.write_text(
            (PROPERTIES + properties).format(port=self.port, controller=free_port(), directory=directory)
        )
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        option = f"--cluster-id={cluster}"  # one word, since an id may begin with a dash
        command = self._java("kafka.tools.StorageTool", "format", option, "-c", str(self._properties))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BrokerUnavailable(f"Kafka cannot format its storage: {done.stderr.strip()[-600:]}")

    def _java(self, *words: str) -> list[str]:
        return ["java", *JAVA_OPTIONS, "-cp", self._class_path, *words]

    def start(self) -> None:
        """Return when the broker tells its metadata and coordinates groups."""
        self.launch(self._java("kafka.Kafka", str(self._properties)), self._ready)

    def why(self) -> str:
        """Its errors, among all that it printed."""
        lines = self.console.read_text(errors="replace").splitlines()
        errors = [line for line in lines if " ERROR " in line or line.startswith(("Caused by", "Exception"))]
        return "; ".join(errors[:5] or lines[-5:])

    def _ready(self) -> bool:
        return self.accepts() and asyncio.run(self._answers())

    async def _answers(self) -> bool:
        client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.port}", request_timeout_ms=3000)
        try:
            await client.start()
            return bool((await client.describe_cluster())["brokers"]) and await client.find_coordinator("any") >= 0
        except (KafkaError, OSError, TimeoutError):
            return False
        finally:
            await client.close()

    def stop(self) -> None:
        """End the node."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(1.0)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def kafka(properties: str = "") -> Iterator[Kafka]:
    """A running Kafka, fetched first where it is missing; `properties` are added to its own."""
    with running(lambda directory: Kafka(directory, properties)) as server:
        yield server
