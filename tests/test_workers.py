"""`mqasync run --workers` and `--reload`: real processes that are killed, drained and started again."""

import json
import signal
import socket
import time
import urllib.request

import psutil
import pytest

from mqasync.service.loop import TOGETHER_SECONDS

from .commands import PATIENCE, CommandLine, Running, eventually

SERVICE = """
import asyncio, os
from mqasync import consumer, producer

WORKER = os.environ["MQASYNC_WORKER"]

@producer(exchange="news", id="feed")
async def feed():
    print("the feed runs in worker", WORKER, flush=True)

@consumer(exchange="in", id="q", concurrency=1, prefetch=1)
async def handler(body: int):
    print("begun by worker", WORKER, flush=True)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    with open("handled", "a") as file:
        print(body, file=file)
"""
BUSY = """
import asyncio
from mqasync import consumer

@consumer(exchange="in", id="q", concurrency=5)
async def handler(body: int):
    await asyncio.sleep(0.01)
    with open("handled", "a") as file:
        print(body, file=file)
"""
SAYS = """
from mqasync import consumer

@consumer(exchange="in", id="q")
async def handler(body: int):
    print("{} handles", body, flush=True)
"""


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.environment["MQASYNC_BROKER"] = cli.url = f"{cli.url}?lease=1"
    cli.declare("in", "q")
    cli.declare("news", "readers")
    cli.file("mine.py", SERVICE)
    return cli


def start(cli: CommandLine, module: str, *options: str) -> Running:
    """Two workers, both at work."""
    running = cli.start("run", module, "--workers", "2", *options)
    for number in (0, 1):
        running.says(f"worker {number}:   consumer in/q")
    return running


def begun(cli: CommandLine) -> Running:
    """Two workers, each with a message in hand."""
    cli.publish("in", "1", "2")
    running = start(cli, "mine")
    for number in (0, 1):
        running.says(f"begun by worker {number}")
    return running


def children(running: Running) -> list[psutil.Process]:
    return psutil.Process(running.process.pid).children()


def handled(cli: CommandLine) -> set[int]:
    file = cli.directory / "handled"
    return {int(line) for line in file.read_text().split()} if file.exists() else set()


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, PATIENCE)[1]


def test_a_worker_killed_under_load_is_started_again_and_no_message_is_lost(cli: CommandLine) -> None:
    cli.file("busy.py", BUSY)
    cli.publish("in", *map(str, range(1000)))
    running = start(cli, "busy")
    eventually(lambda: len(handled(cli)) > 50, "they are at work")
    victim = children(running)[-1]
    victim.kill()
    running.says(f"(process {victim.pid}) was killed by SIGKILL; restarting it in 1 s")
    eventually(lambda: len(children(running)) == 2, "there are two again")
    cli.until_depth("in", "q", 0)
    running.send(signal.SIGTERM)
    assert running.ends() == 0
    assert handled(cli) == set(range(1000))


def test_a_signal_drains_every_worker_however_often_they_get_it_themselves(cli: CommandLine) -> None:
    running = begun(cli)
    # When a service manager sends SIGTERM to all, the parent sends it as well, and it comes late
    running.send(signal.SIGTERM)
    running.says("SIGTERM: draining")
    time.sleep(2 * TOGETHER_SECONDS)
    workers = children(running)
    for worker in workers:
        worker.terminate()
    assert len(workers) == 2
    # Then both finish what they have in hand, and only the parent says that it drains
    cli.file("go", "")
    assert running.ends() == 0
    assert handled(cli) == {1, 2}
    assert cli.depth("in", "q") == 0
    assert running.errors.text().count("draining") == 1
    # And the producer ran in the first worker only
    feeds = [line for line in running.output.lines if "feed" in line]
    assert feeds == ["the feed runs in worker 0"]


def test_a_second_signal_stops_every_worker_at_once(cli: CommandLine) -> None:
    running = begun(cli)
    workers = children(running)
    running.send(signal.SIGINT)
    running.says("SIGINT: draining")
    time.sleep(2 * TOGETHER_SECONDS)
    running.send(signal.SIGINT)
    assert running.ends() == 1
    assert gone(workers)
    assert cli.depth("in", "q") == 2


def test_workers_whose_parent_is_killed_drain_and_end(cli: CommandLine) -> None:
    running = begun(cli)
    workers = children(running)
    running.process.kill()
    for number in (0, 1):
        running.says(f"worker {number}: the parent process is gone: draining")
    cli.file("go", "")
    assert gone(workers)
    assert handled(cli) == {1, 2}


def test_a_worker_that_always_crashes_is_started_again_later_and_later(cli: CommandLine) -> None:
    cli.file("crash.py", "import os; os._exit(3)")
    running = cli.start("run", "crash", "--workers", "3")
    for pause in ("1 s", "2 s", "4 s"):
        running.says(f"ended with exit code 3; restarting it in {pause}")
    # The others wait for the first, and a signal ends the pause
    running.send(signal.SIGTERM)
    assert running.ends() == 0
    assert len([line for line in running.errors.text().splitlines() if "exit code 3" in line]) == 3
    assert "worker 1" not in running.errors.text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mien",), "there is no module 'mien'; did you mean mine?"),
        (("settings",), "services.settings in the configuration: Expected `int`, got `str` - at `$.port`"),
        (("mine", "--broker", "memory:"), "needs a broker that processes can share: broker main (memory:) keeps"),
        (("mine", "--until-idle"), "--until-idle takes one process, not 3"),
    ],
)
def test_a_mistake_is_said_once_and_ends_all(cli: CommandLine, arguments: tuple[str, ...], sentence: str) -> None:
    cli.file(
        "settings.py",
        f"{SAYS}\nimport contextlib\n@contextlib.asynccontextmanager\n"
        "async def lifespan(settings: 'Port'): yield {}\nimport msgspec\nclass Port(msgspec.Struct):\n    port: int\n",
    )
    cli.file("config.yml", "services: {settings: {port: none}}")
    done = cli.run("run", *arguments, "--workers", "3")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mqasync: ")]
    assert sentence in line
    assert done.returncode == 2
    assert "worker 1" not in done.stderr


def test_a_mistake_that_only_a_restarted_worker_finds_drains_and_ends_all(cli: CommandLine) -> None:
    running = start(cli, "mine")
    cli.file("config.yml", "nonsense: 1")
    children(running)[0].kill()
    assert running.ends() == 2
    assert len([line for line in running.errors.text().splitlines() if line.startswith("mqasync: ")]) == 1


def test_a_worker_to_whom_no_consumer_is_left_ends_and_says_nothing_of_it(cli: CommandLine) -> None:
    cli.file("feeds.py", "from mqasync import producer\n\n@producer(exchange='news', id='f')\nasync def f(): yield 1\n")
    done = cli.run("run", "feeds", "--workers", "2")
    assert (done.returncode, cli.depth("news", "readers")) == (0, 1), done.stderr


def test_each_worker_serves_http_at_its_own_port(cli: CommandLine) -> None:
    port = two_free_ports()
    start(cli, "mine", "--http", f"127.0.0.1:{port}")
    for each in (port, port + 1):
        with urllib.request.urlopen(f"http://127.0.0.1:{each}/health/live", timeout=10) as answer:
            assert json.loads(answer.read())["live"]


def two_free_ports() -> int:
    """The first of two that follow each other."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def test_reload_runs_the_changed_code_and_survives_a_syntax_error(cli: CommandLine) -> None:
    cli.file("mine.py", SAYS.format("the old code"))
    running = cli.start("run", "mine", "--reload")
    running.says("consumer in/q")
    cli.publish("in", "1")
    running.says("the old code handles 1")
    # When the code is broken, its place is shown
    cli.file("mine.py", "def (")
    running.says("mine.py changed: restarting")
    running.says("SyntaxError")
    running.says("waiting for a change")
    # When it is mended together with others, it starts once
    for name in ("helper.py", "config.yml", "mine.py"):
        cli.file(name, SAYS.format("the new code") if name == "mine.py" else "")
    running.says("config.yml, helper.py, mine.py changed: restarting")
    cli.publish("in", "2")
    running.says("the new code handles 2")
    running.send(signal.SIGINT)
    assert running.ends() == 0
    assert running.errors.text().count("restarting") == 2
    assert "worker 0:" not in running.errors.text()


def test_reload_drains_what_is_in_hand_also_when_ctrl_c_comes_meanwhile(cli: CommandLine) -> None:
    cli.publish("in", "1")
    running = cli.start("run", "mine", "--reload")
    running.says("begun by worker 0")
    (worker,) = children(running)
    cli.file("helper.py", "")
    running.says("helper.py changed: restarting")
    running.send(signal.SIGINT)
    running.says("SIGINT: draining")
    cli.file("go", "")
    assert running.ends() == 0
    assert not worker.is_running(), "the parent ends last"
    assert handled(cli) == {1}
    assert cli.depth("in", "q") == 0


def test_reload_ends_with_a_mistake_that_no_changed_file_could_mend(cli: CommandLine) -> None:
    done = cli.run("run", "mien", "--reload")
    assert (done.returncode, done.stderr) == (2, "mqasync: there is no module 'mien'; did you mean mine?\n")


def test_reload_without_the_extra_says_what_to_install(cli: CommandLine) -> None:
    cli.file("watchfiles.py", "raise ModuleNotFoundError('no', name='watchfiles')")
    done = cli.run("run", "mine", "--reload")
    assert (done.returncode, done.stderr) == (2, "mqasync: --reload needs watchfiles: pip install 'mqasync[reload]'\n")
