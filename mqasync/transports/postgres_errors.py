"""What asyncpg raises, in the words of mqasync.errors; nothing is repeated or logged here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, InternalClientError

from ..errors import BrokerLost, BrokerRefused, ConfigurationError

# The first two characters of a SQLSTATE say of which class it is: these a new connection or a pause may cure
# (no connection, a transaction undone, no room, a lock not free, a shutdown, a failing disk, an internal error).
LOST_CLASSES = {"08", "40", "53", "55", "57", "58", "XX"}
# So may a primary found again, a statement prepared anew, and a schema or table that open() makes again.
LOST_STATES = {"25006", "0A000", "3F000", "42P01"}


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Say what asyncpg raises in the words of mqasync.errors."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or "XX000"
        lost = state[:2] in LOST_CLASSES or state in LOST_STATES
        # not its detail, which may show what is in a row
        raise (BrokerLost if lost else BrokerRefused)(str(error.args[0])) from error
    except ClientConfigurationError as error:  # from the environment: PGSSLNEGOTIATION and the like
        raise ConfigurationError(f"PostgreSQL's client refuses its settings: {error}") from error
    except (asyncpg.InterfaceError, InternalClientError) as error:
        if isinstance(error, ValueError):
            raise BrokerRefused("a number in the message is too large for PostgreSQL") from error
        raise BrokerLost(str(error)) from error
    except TypeError as error:  # asyncpg's own, when a connection ends under a statement that has begun
        if "NoneType" not in str(error):
            raise
        raise BrokerLost("the connection ended") from error
    except ssl.SSLCertVerificationError as error:
        raise BrokerRefused(f"its certificate is not trusted: {error.verify_message.rstrip('.')}") from error
    except (OSError, TimeoutError) as error:
        if "rejected SSL upgrade" in str(error):
            raise BrokerRefused("it does not offer TLS; sslmode=off in the URL connects without") from error
        raise BrokerLost(str(error) or "no answer in time") from error
