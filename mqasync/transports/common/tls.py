"""TLS: a verifying context from the files that a URL names, and failures in words; no connection or URL here."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from ...errors import ConfigurationError

FILES = ("cafile", "certfile", "keyfile")


def check(settings: Mapping[str, str], encrypted: bool, secure: str, plain: str) -> None:
    """Raise ConfigurationError for files of FILES that would have no effect.

    `secure` and `plain` say what a URL with TLS and one without look like.
    """
    for key in FILES:
        if key in settings and not encrypted:
            raise ConfigurationError(f"{key} is for {secure}; {plain} connects without encryption")
    if "keyfile" in settings and "certfile" not in settings:
        raise ConfigurationError("keyfile is the private key of a certificate; certfile must name the certificate")


def context(settings: Mapping[str, str]) -> ssl.SSLContext:
    """The context for the FILES in `settings`; without a cafile the system's authorities are trusted.

    Raises ConfigurationError that names a file which cannot be used.
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


def why_for_good(error: BaseException | None, instead: str) -> str:
    """Why TLS will fail the next time too; empty if it may not. `instead`: what to use for a server without TLS."""
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if "_ALERT_" in reason:
        words = reason.partition("_ALERT_")[2].replace("_", " ").lower()
        return f"it ended the TLS handshake: {words}; certfile= and keyfile= set a client certificate"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return f"the server at this port does not speak TLS: use {instead}"
    return ""
