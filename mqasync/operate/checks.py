"""Checks: whether brokers and queues are ready for services, as findings; nothing is shown or created here."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import chain

import msgspec

from ..brokers.broker import Broker, Brokers
from ..brokers.queues import Queue, is_tap, queues, stats
from ..core.schedule import schedule_of
from ..errors import BrokerError, BrokerRefused
from ..handlers.codec import decoder
from ..handlers.signature import of_consumer, of_producer
from ..service.discovery import Service
from ..service.lifespan import lifespan_settings
from ..transport import DEAD, QueueStats

ANSWER_SECONDS = 3.0  # of one queue
SILENT = (
    f"the queue exists, but has not answered for {ANSWER_SECONDS:g} s:"
    " check whether it has a leader, or lost it when the broker died"
)

OK, WARNING, ERROR = "ok", "warning", "error"


class Finding(msgspec.Struct, frozen=True):
    """`result`: ok, warning or error. `about`: a broker, a queue as exchange/id or an exchange."""

    result: str
    about: str
    detail: str


class Checks:
    """Checks of `services` and the brokers that they use; without services, of all configured brokers.

    `wait`: seconds for all that is asked of one broker. Raises ConfigurationError for a handler whose bodies
    cannot be decoded, for an invalid schedule, and for a section of `services:` that is not what its
    lifespan() takes.
    """

    def __init__(self, services: Sequence[Service], brokers: Brokers, wait: float) -> None:
        self._settings = settings = brokers.settings
        self._wait = wait
        self._services = services
        self._queues: set[Queue] = set()  # that are declared here
        self._fed: dict[str, list[str]] = {}  # who publishes to an exchange
        for service in services:
            if service.lifespan:
                lifespan_settings(service, settings)
            for producer in service.producers:
                of_producer(producer.handler)
                schedule_of(producer)
                self._fed.setdefault(producer.exchange, []).append(f"{producer.exchange}/{producer.id}")
            for consumer in service.consumers:
                decoder(of_consumer(consumer.handler).body)
                self._queues.add((consumer.exchange, consumer.id))
                for to in settings.configured(consumer).options.to:
                    self._fed.setdefault(to, []).append(f"{consumer.exchange}/{consumer.id}")
        self._exchanges = sorted({exchange for exchange, _ in self._queues} | self._fed.keys())
        self._queues |= {(exchange, id) for exchange, own in settings.exchanges.items() for id in own.requires}
        names = map(settings.broker_of, self._exchanges) if services else settings.brokers
        self._in_use = [brokers.named(name) for name in dict.fromkeys(names)]

    async def run(self) -> list[Finding]:
        """All findings, by broker. Raises ConfigurationError for files that a broker's URL names."""
        return [*chain.from_iterable(await asyncio.gather(*map(self._broker, self._in_use))), *self._unused()]

    def _unused(self) -> Iterator[Finding]:
        """Exchanges, consumers and services that only config.yml names, perhaps with a typo."""
        consumers = [f"{one.exchange}/{one.id}" for service in self._services for one in service.consumers]
        named: dict[str, Iterable[str]] = {"exchanges": self._settings.exchanges, "consumers": self._settings.consumers}
        for section, used in ("exchanges", self._exchanges), ("consumers", sorted(consumers)):
            for name in sorted({*named[section]}.difference(used) if self._services else ()):
                detail = (
                    f"it is listed in {section} of config.yml, but no handler here uses it; in use: {', '.join(used)}"
                )
                yield Finding(WARNING, name, detail)
        takes = {service.name: bool(service.lifespan) for service in self._services}
        without = takes.keys() - self._settings.services
        for name in self._settings.services:  # others may share the file
            if not takes.get(name, not get_close_matches(name, without)):
                yield Finding(WARNING, name, "it is listed in services of config.yml, but no lifespan() here takes it")

    async def _broker(self, broker: Broker) -> list[Finding]:
        about = f"broker {broker.name}"
        findings: list[Finding] = []
        try:
            async with asyncio.timeout(self._wait):
                transport = await broker.connected()
                findings.append(Finding(OK, about, f"{broker.address} answers"))
                if transport.warning:
                    findings.append(Finding(WARNING, about, transport.warning))
                for exchange, id in sorted(self._queues):
                    if self._settings.broker_of(exchange) == broker.name:
                        findings += await self._declared(broker, exchange, id)
                findings += await self._others(broker)
        except TimeoutError:
            what = "some questions were not answered" if findings else f"no answer from {broker.address}"
            why = f": {broker.trouble}" if broker.trouble else ""
            findings.append(Finding(ERROR, about, f"{what} within {self._wait:g} s{why}"))
        except BrokerError as error:
            findings.append(Finding(ERROR, about, str(error)))
        return findings

    async def _declared(self, broker: Broker, exchange: str, id: str) -> list[Finding]:
        """A queue of these services: whether it is there, and as they declare it."""
        name = f"{exchange}/{id}"
        makes = self._settings.makes(exchange, id) or (await broker.connected()).features.beside
        found, detail = None, "will be created by the first run"
        try:
            found = await stats(broker, exchange, id)
            findings = [Finding(OK, name, f"exists; {_holds(found)}" if found else detail)]
            if found or not makes:
                await broker.call(lambda transport: transport.declare(exchange, id))
        except BrokerRefused as error:
            findings = [Finding(ERROR, name, str(error))]
        dead = await stats(broker, exchange, id + DEAD)
        if await _silent(broker, exchange, id, found):
            findings = [Finding(ERROR, name, SILENT)]
        if await _silent(broker, exchange, id + DEAD, dead):
            findings.append(Finding(ERROR, name + DEAD, SILENT))
        if dead and dead.total:
            findings.append(Finding(WARNING, name, f"dead letters: {dead.total:,}"))
        return findings

    async def _others(self, broker: Broker) -> list[Finding]:
        """What the broker reports of queues that are not declared here, at the exchanges of these services."""
        exchanges = [exchange for exchange in self._exchanges if self._settings.broker_of(exchange) == broker.name]
        there = await queues(broker)
        others = [(exchange, id) for exchange, id in sorted(there or ()) if exchange in exchanges and not is_tap(id)]
        findings = []
        for exchange, id in others:
            if (exchange, id.removesuffix(DEAD)) in self._queues:
                continue
            found = await stats(broker, exchange, id)
            if found and (found.total or not id.endswith(DEAD)):  # nobody may be left who consumes it
                consumers = f"consumers elsewhere: {found.consumers}, " if found.consumers else ""
                detail = f"nothing here consumes it; {consumers}{_holds(found)}"
                findings.append(Finding(OK if consumers else WARNING, f"{exchange}/{id}", detail))
        heard = {exchange for exchange, id in (*self._queues, *others) if not id.endswith(DEAD)}
        whether = "the broker does not report whether others do" if there is None else "and no queue is bound to it"
        for exchange in exchanges:
            own = self._settings.exchanges.get(exchange)
            if exchange not in heard and not (own and own.optional):
                detail = f"{', '.join(self._fed[exchange])} publishes to it, nothing here consumes it, {whether}"
                findings.append(Finding(WARNING, exchange, detail))
        return findings


async def _silent(broker: Broker, exchange: str, id: str, found: QueueStats | None) -> bool:
    """Whether the queue does not answer: a quorum queue without a leader. Messages in it are an answer."""
    if found is None or found.total or found.consumers:
        return False
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            transport = await broker.connected()
            subscription = await transport.subscribe(exchange, id, 1)
            await subscription.release(await subscription.receive(1, 0.0))
            await subscription.close()
            return False
    return True


def _holds(found: QueueStats) -> str:
    return f"messages: {found.total:,}"
