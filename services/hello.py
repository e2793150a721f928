"""The smallest service: a producer and a consumer. `mqasync run services.hello --until-idle`."""

from collections.abc import AsyncIterator

from mqasync import consumer, producer


@producer(exchange="greetings", id="hello")
async def greet() -> AsyncIterator[dict[str, str]]:
    """Publish three greetings; with every="10m" it would do so every ten minutes."""
    for name in ("Ada", "Grace", "Edsger"):
        yield {"name": name}


@consumer(exchange="greetings", id="print", concurrency=1)
async def show(greeting: dict[str, str]) -> None:
    """Print one greeting; a return acknowledges it."""
    print(f"Hello, {greeting['name']}!")
