"""TLS towards NATS: files to a context that verifies; no connection and no URL here."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from ..errors import ConfigurationError

FILES = ("cafile", "certfile", "keyfile")


def context(settings: Mapping[str, str]) -> ssl.SSLContext:
    """What `settings` say by the keys FILES; without a cafile the system's authorities are trusted.

    Raises ConfigurationError that names the file which cannot be used.
    """
    for key in FILES:
        if key in settings and not os.path.isfile(settings[key]):
            raise ConfigurationError(f"{key} is {settings[key]!r}, which is not a file")
    cafile, certfile, keyfile = map(settings.get, FILES)
    try:
        made = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise ConfigurationError(f"cafile {cafile!r} is not a certificate in PEM") from error
    if certfile:
        try:
            made.load_cert_chain(certfile, keyfile, password="")  # without one, OpenSSL would ask the terminal
        except OSError as error:
            what = f"certfile {certfile!r} and keyfile {keyfile or certfile!r}"
            rule = "a certificate and its private key, in PEM and without a passphrase"
            raise ConfigurationError(f"{what} are not {rule}") from error
    return made
