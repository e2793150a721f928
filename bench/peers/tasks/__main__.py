"""`python -m bench.peers.tasks NAME`: publish as that framework does, from the module that its workers import too."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module

from . import ledger

asyncio.run(ledger.publish_all(import_module(f"{__package__}.{sys.argv[1]}").publisher))
