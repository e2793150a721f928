"""`python -m mqasync.web.probe`: the health check of a container, a question to its own /health/live; no server here.

Exit code 1 when `run --http` (as MQASYNC_HTTP says) listens and does not answer; 0 where nothing listens, such as in a
container that runs another command.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

SECONDS = 4.0  # until an event loop that does not answer counts as standing still


def main() -> int:
    """The exit code."""
    host, _, port = os.environ.get("MQASYNC_HTTP", "").rpartition(":")
    if not port:
        return 0
    try:
        with urllib.request.urlopen(f"http://{host or '127.0.0.1'}:{port}/health/live", timeout=SECONDS):
            return 0
    except urllib.error.URLError as error:
        return 0 if isinstance(error.reason, ConnectionRefusedError) else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
