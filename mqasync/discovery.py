"""From import strings to the consumers and producers of modules, as pytest finds tests; nothing is run."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import msgspec

from .errors import ConfigurationError
from .handler import Consumer, Source
from .signature import of_consumer, of_producer

Lifespan = Callable[..., AbstractAsyncContextManager[dict[str, Any] | None]]


class Service(msgspec.Struct, frozen=True):
    """What one module declares: its consumers, its producers and its lifespan()."""

    name: str
    consumers: list[Consumer]
    producers: list[Source[..., Any]]
    lifespan: Lifespan | None


def discover(names: Sequence[str]) -> list[Service]:
    """Import each `module`, `package` (with its modules) or `module:name` and take what it declares.

    Raises ConfigurationError for a module that is not there, declares nothing or has a handler
    that cannot be. An error inside the module is raised as it is.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # `mqasync run services.x` finds what `python -m` would
    services: dict[str, Service] = {}
    for name in names:
        found = _discover(name)
        if not any(service.consumers or service.producers for service in found):
            raise ConfigurationError(f"{name!r} declares no consumer and no producer")
        services |= {service.name: service for service in found}
    _check_queues([consumer for service in services.values() for consumer in service.consumers])
    return list(services.values())


def _discover(name: str) -> list[Service]:
    module_name, _, wanted = name.partition(":")
    module = _import(module_name)
    if wanted:
        chosen = getattr(module, wanted, None)
        if not isinstance(chosen, Consumer | Source):
            choices = ", ".join(key for key, value in vars(module).items() if isinstance(value, Consumer | Source))
            raise ConfigurationError(
                f"{wanted!r} is no consumer or producer of {module_name}; there are: {choices or 'none'}"
            )
        return [_service(module, [chosen])]
    modules = [module]
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module_name}."):
        modules.append(_import(info.name))
    services = []
    for member in modules:
        own = [value for value in vars(member).values() if isinstance(value, Consumer | Source)]
        # a handler imported from a module that is searched as well counts there, once
        own = [
            value
            for value in own
            if _home(value) == member.__name__ or _home(value) not in {m.__name__ for m in modules}
        ]
        services.append(_service(member, own))
    return services


def _home(declared: Consumer | Source[..., Any]) -> str:
    return getattr(declared.handler, "__module__", "") if not inspect.ismethod(declared.handler) else ""


def _service(module: ModuleType, declared: Sequence[Consumer | Source[..., Any]]) -> Service:
    consumers = list({id(d): d for d in declared if isinstance(d, Consumer)}.values())
    producers = list({id(d): d for d in declared if isinstance(d, Source)}.values())
    lifespan = getattr(module, "lifespan", None)
    for signature, function in [
        *((of_consumer(consumer.handler), consumer.handler) for consumer in consumers),
        *((of_producer(producer.handler), producer.handler) for producer in producers),
    ]:
        if signature.injected and lifespan is None:
            raise ConfigurationError(
                f"{module.__name__}.{getattr(function, '__name__', '?')} wants {', '.join(signature.injected)}, "
                "which a lifespan() in its module would have to yield; a consumer takes its body and a Message"
            )
    return Service(module.__name__, consumers, producers, lifespan)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the module is there; what it imports is not
        parent, _, last = missing.rpartition(".")
        path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
        choices = [info.name for info in pkgutil.iter_modules(path)] if path else []
        close = get_close_matches(last, choices) or choices[:8]
        hint = f"{parent} has: {', '.join(close)}" if close else f"looked in {os.getcwd()} and where packages are"
        raise ConfigurationError(f"there is no module {missing!r}; {hint}") from error
    except ValueError as error:
        raise ConfigurationError(f"{name!r} is not a module name: {error}") from error


def _check_queues(consumers: Sequence[Consumer]) -> None:
    seen: dict[tuple[str, str], Consumer] = {}
    for consumer in consumers:
        other = seen.setdefault((consumer.exchange, consumer.id), consumer)
        for name in consumer.options.__struct_fields__:
            one, two = getattr(other.options, name), getattr(consumer.options, name)
            if one != two:
                queue = f"{consumer.exchange}/{consumer.id}"
                raise ConfigurationError(
                    f"two consumers share the queue {queue} with different {name}: {one} and {two}"
                )
