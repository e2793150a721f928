"""A RabbitMQ cluster of three nodes on this machine, and the network between them cut; nothing is asserted here.

Each node has a loopback address of its own for what nodes say to each other, so that a packet filter can tell
them apart. Clients reach all of them at 127.0.0.1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..brokers import BrokerUnavailable, RabbitMQ, apt_install, free_port

FIRST_ADDRESS = 2  # 127.0.0.2
CONFIGURATION = "cluster_partition_handling = pause_minority\n"  # as RabbitMQ's clustering guide advises
TICK_SECONDS = 5  # how soon nodes notice that another one is silent; RabbitMQ's default is 60


class Node(RabbitMQ):
    """One of the nodes."""

    def __init__(self, directory: Path, number: int, epmd_port: int) -> None:
        super().__init__(directory, CONFIGURATION)
        self.address = f"127.0.0.{FIRST_ADDRESS + number}"
        octets = self.address.replace(".", ",")
        own_address = f"inet_dist_use_interface {{{octets}}} inet_dist_connect_options [{{ip,{{{octets}}}}}]"
        self.name = f"mqasync{self.port}@{self.address}"
        self.environment |= {
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel {own_address} net_ticktime {TICK_SECONDS}",
        }
        cookie = directory / ".erlang.cookie"
        cookie.write_text("mqasync-tests")
        cookie.chmod(0o400)

    def join(self, other: Node) -> None:
        """Start as a member of its cluster."""
        with (self.directory / "rabbitmq.conf").open("a") as configuration:
            configuration.write(f"cluster_formation.classic_config.nodes.1 = {other.name}\n")
            configuration.write(f"cluster_formation.classic_config.nodes.2 = {self.name}\n")
        self.start()


@contextmanager
def cluster() -> Iterator[list[Node]]:
    """Three running nodes."""
    if not RabbitMQ.program("rabbitmq-server"):
        apt_install("rabbitmq-server")
    epmd_port = free_port()
    with tempfile.TemporaryDirectory(prefix="mqasync-cluster-") as directory:
        nodes: list[Node] = []
        try:
            for number in range(3):
                own = Path(directory) / str(number)
                own.mkdir()
                nodes.append(Node(own, number, epmd_port))
            nodes[0].start()
            with ThreadPoolExecutor() as threads:
                list(threads.map(lambda node: node.join(nodes[0]), nodes[1:]))
            yield nodes
        finally:
            for node in nodes:
                if node.process and node.process.poll() is None:
                    node.kill()
            nodes[0].stop()


@contextmanager
def partition(node: Node, others: list[Node]) -> Iterator[None]:
    """No packet between `node` and the others; clients reach all of them."""
    if not shutil.which("iptables"):
        apt_install("iptables")
    pairs = [(node, other) for other in others] + [(other, node) for other in others]
    rules = [["INPUT", "-s", source.address, "-d", target.address, "-j", "DROP"] for source, target in pairs]
    try:
        for rule in rules:
            filter_packets("-A", rule)
        yield
    finally:
        for rule in rules:
            filter_packets("-D", rule)


def filter_packets(action: str, rule: list[str]) -> None:
    """Add or delete one rule."""
    done = subprocess.run(["iptables", action, *rule], env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode and action == "-A":
        raise BrokerUnavailable(f"a network cannot be cut on this machine: {done.stderr.strip()}")
