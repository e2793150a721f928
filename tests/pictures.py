"""Pictures of the running product for docs/: the live page, and commands in a terminal; `make pictures` draws them."""

import io
import json
import re
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .brokers import free_port
from .browser import chromium
from .commands import CommandLine

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 128
SECONDS = 180  # at work before it is shown: a curve has a point every 10 s


def terminal(cli: CommandLine, name: str, *commands: str) -> None:
    """What these commands print, as an SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for command in commands:
        done = cli.run(*command.split())
        console.print(Text.assemble(("$ ", "dim"), (f"mqasync {command}", "bold")))
        console.print(Text((done.stderr + done.stdout).replace(f"{cli.directory}/", "")))
    drawn = console.export_svg(title="", unique_id=name)
    fetched = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # Rich's own font would come from a CDN
    (PICTURES / f"{name}.svg").write_text(fetched.sub("", drawn))


def live_page(cli: CommandLine) -> None:
    """The pipeline at work on its sample feed and on a second source, in a browser."""
    address = f"127.0.0.1:{free_port()}"
    cli.start("run", "services.cth", "--http", address).says("consumer CTH/parse")
    with chromium() as browser:
        browser.get(f"http://{address}")
        source = cli.start("produce", "--exchange", "CTH", "--id", "honeypot")
        for tick in range(10 * SECONDS):
            for number in range(tick % 300 // 20):
                value = f"2001:db8:{number}::{tick:x}"  # those of 2001:db8:5::/48 are watched
                source.write(json.dumps({"value": value, "source": "honeypot"}))
            time.sleep(0.1)
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1280, height)
        browser.save_screenshot(str(PICTURES / "live-page.png"))


def main() -> None:
    """All of them, each from a directory of its own."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        cli = CommandLine(Path(directory), "sqlite:mqasync.db")
        shutil.copytree(ROOT / "services", cli.directory / "services")
        cli.environment["PYTHONPATH"] = directory
        try:
            terminal(cli, "terminal", "run services.cth --until-idle", "status")
            live_page(cli)
        finally:
            cli.stop()


if __name__ == "__main__":
    main()
