"""Secrets made unreadable, in URLs and in the configuration as people see it; nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .config import Settings

SECRET_KEY = re.compile(r"pass|secret|token|credential|api_?key", re.IGNORECASE)


def masked(url: str) -> str:
    """`url` without its password and other secrets, for people to read."""
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def shown(settings: Settings) -> dict[str, Any]:
    """The settings as plain data for people to read, every secret masked."""

    def mask(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: mask(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [mask(item, key) for item in value]
        if value and (SECRET_KEY.search(key) or str(value) in settings.secrets):
            return "***"
        return masked(value) if isinstance(value, str) else value

    data = msgspec.to_builtins(settings)
    del data["secrets"]
    masked_data: dict[str, Any] = mask(data)
    return masked_data
