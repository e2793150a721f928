"""`python -m mqasync.web.probe`: the health check of a container, a question to its own /health/live; no server here.

Exit code 1 when `run --http` (as MQASYNC_HTTP says) listens and does not answer; 0 where nothing listens, such as in a
container that runs another command.
"""

import os
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

SECONDS = 4.0  # until an event loop that does not answer counts as standing still


def main() -> int:
    """The exit code."""
    host, _, port = os.environ.get("MQASYNC_HTTP", "").rpartition(":")
    if not port:
        return 0
    # not urllib, which would ask a proxy that the environment names
    connection = HTTPConnection(host or "127.0.0.1", int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/health/live")
        return 0 if connection.getresponse().status == HTTPStatus.OK else 1
    except ConnectionRefusedError:
        return 0
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
