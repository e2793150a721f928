"""From import strings to the consumers and producers of modules, as pytest finds tests; nothing is run."""

import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import msgspec

from ..errors import ConfigurationError
from ..handler import Binding, Source, where
from ..handlers.signature import of_consumer, of_producer

Declared = Binding | Source[..., Any]
Lifespan = Callable[..., AbstractAsyncContextManager[dict[str, Any] | None]]


class Service(msgspec.Struct, frozen=True):
    """What one module declares: its consumers, its producers and its lifespan()."""

    name: str
    consumers: list[Binding]
    producers: list[Source[..., Any]]
    lifespan: Lifespan | None


def discover(names: Sequence[str]) -> list[Service]:
    """Import each `module`, `package` (with its modules) or `module:name` and take what it declares.

    Raises ConfigurationError for a module that does not exist, declares nothing or has an invalid handler. An error
    inside the module is raised as it is.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # `mqasync run services.x` finds what `python -m` would
    declared: dict[Declared, str] = {}  # and the module in which it counts
    for name in names:
        found = _discover(name)
        if not found:
            raise ConfigurationError(f"{name!r} declares no consumer and no producer{_unused_class(name)}")
        for one, module in found:
            declared.setdefault(one, module)
    services = [
        _service(sys.modules[module], [one for one, own in declared.items() if own == module])
        for module in dict.fromkeys(declared.values())
    ]
    _check_queues([consumer for service in services for consumer in service.consumers])
    return services


def _unused_class(name: str) -> str:
    for key, value in vars(sys.modules[name]).items():
        if isinstance(value, type) and issubclass(value, Binding) and value.__module__ == name:
            return f": make an object of the class {key}, {key.lower()} = {key}(exchange=..., id=...)"
    return ""


def _discover(name: str) -> list[tuple[Declared, str]]:
    """What the modules that an import string names declare, and each one's module."""
    module_name, colon, wanted = name.partition(":")
    if module_name.endswith(".py") or not all(part.isidentifier() for part in module_name.split(".")):
        like = module_name.removeprefix("./").removesuffix(".py").replace("/", ".") or "services.hello"
        raise ConfigurationError(f"{name!r} is not the name of a module; write it as import does: {like}")
    module = _import(module_name)
    same_below = f"{module_name}.{module_name.rpartition('.')[2]}"
    if module.__spec__ and not module.__spec__.origin and find_spec(same_below):  # a directory without __init__.py
        there = module_name.replace(".", "/")
        raise ConfigurationError(f"{module_name!r} is a directory with the service in it: cd {there} first")
    if colon:
        choices = {key: value for key, value in vars(module).items() if isinstance(value, Binding | Source)}
        if wanted not in choices:
            there_are = ", ".join(choices) or "none"
            raise ConfigurationError(f"{wanted!r} is not a consumer or producer of {module_name}; it has: {there_are}")
        return [(choices[wanted], module_name)]
    modules = {module_name: module}
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module_name}."):
        if not info.name.endswith(".__main__"):
            modules[info.name] = _import(info.name)
    values = [(value, member) for member, module in modules.items() for value in vars(module).values()]
    for value, _ in values:
        _check_not_wrapped(value)
    return [
        (value, member)
        for value, member in values
        # a handler imported from a module that is searched as well counts there, with its lifespan()
        if isinstance(value, Binding | Source) and (_home(value) == member or _home(value) not in modules)
    ]


def _check_not_wrapped(value: object) -> None:
    """A decorator above @consumer hides the consumer from us."""
    if inspect.isfunction(value):
        inmost = inspect.unwrap(value, stop=lambda function: isinstance(function, Binding | Source))
        if isinstance(inmost, Binding | Source):
            raise ConfigurationError(f"{where(value)}: {inmost!r} is wrapped; @consumer or @producer must be on top")


def _home(declared: Declared) -> str:
    return getattr(declared.handler, "__module__", "") if not inspect.ismethod(declared.handler) else ""


def _service(module: ModuleType, declared: Sequence[Declared]) -> Service:
    lifespan = getattr(module, "lifespan", None)
    if inspect.isasyncgenfunction(lifespan):
        raise ConfigurationError(f"{where(lifespan)} is not a context manager: write @asynccontextmanager above it")
    consumers = [one for one in declared if isinstance(one, Binding)]
    producers = [one for one in declared if isinstance(one, Source)]
    for one in declared:
        signature = of_consumer(one.handler) if isinstance(one, Binding) else of_producer(one.handler)
        if signature.injected and lifespan is None:
            names = ", ".join(signature.injected)
            what = f"{where(one.handler)} wants {names}, which only a lifespan() in {module.__name__} can yield"
            rule = "; a consumer takes the body and a parameter annotated with Message"
            raise ConfigurationError(what + (rule if isinstance(one, Binding) else ""))
    return Service(module.__name__, consumers, producers, lifespan)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the module is there; what it imports is not
        raise ConfigurationError(f"there is no module {missing!r}; {_hint(*missing.rpartition('.'))}") from error
    except ConfigurationError as error:
        own = os.path.dirname(os.path.dirname(__file__))
        line = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)][-1]
        if line.filename in str(error):
            raise
        raise ConfigurationError(f"{line.filename}, line {line.lineno}: {error}") from error


def _hint(parent: str, dot: str, name: str) -> str:
    """What the user may have meant by a module that is not there."""
    path = getattr(sys.modules[parent], "__path__", None) if parent else None
    if parent and path is None:
        return f"{parent} is a module, not a package; {parent}:{name} would be a handler in it"
    choices = [info.name for info in pkgutil.iter_modules(path)]
    if close := get_close_matches(name, choices):
        return f"did you mean {' or '.join(parent + dot + choice for choice in close)}?"
    if parent:
        return f"{parent} has: {', '.join(choices)}"
    return f"looked in {os.getcwd()} and the installed packages"


def _check_queues(consumers: Sequence[Binding]) -> None:
    seen: dict[tuple[str, str], Binding] = {}
    for consumer in consumers:
        other = seen.setdefault((consumer.exchange, consumer.id), consumer)
        for name in consumer.options.__struct_fields__:
            one, two = getattr(other.options, name), getattr(consumer.options, name)
            if one != two:
                what = f"two consumers share the queue {consumer.exchange}/{consumer.id}"
                raise ConfigurationError(f"{what} with different {name}: {one} and {two}")
