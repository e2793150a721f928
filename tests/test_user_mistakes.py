"""Each mistake a user can make: one sentence that names the value and what is valid, no traceback, nothing lost.

Real processes; what a sentence says exactly about config.yml is in test_config.py too.
"""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from .brokers import free_port
from .commands import CommandLine

QUEUE = ("--exchange", "CTH", "--id", "q")
GOOD = """
from mqasync import consumer

@consumer(exchange="CTH", id="q")
async def show(event):
    print(event)
"""
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")


@pytest.fixture
def cli(cli: CommandLine) -> Iterator[CommandLine]:
    """Commands on a broker in whose queue CTH/q one message waits; none of the mistakes loses it."""
    cli.file("good.py", GOOD)
    cli.declare("CTH", "q")
    cli.publish("CTH", '{"n": 0}')
    yield cli
    assert cli.depth("CTH", "q") == 1


def sentence(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one sentence on stderr that is neither a log line nor the count of what was published."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not LOG_LINE.match(line) and not line.startswith("published")]
    assert len(lines) == 1, done.stderr
    assert (done.returncode, done.stdout) == (code, ""), done
    assert lines[0].startswith("mqasync: ")
    return lines[0].removeprefix("mqasync: ")


# modules and handlers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("god", "there is no module 'god'; did you mean good?"),
        ("nowhere_near", "there is no module 'nowhere_near'; looked in {directory} and the installed packages"),
        ("package.stpes", "there is no module 'package.stpes'; did you mean package.steps?"),
        ("package.other", "there is no module 'package.other'; package has: steps"),
        ("good.show", "there is no module 'good.show'; good is a module, not a package; good:show would be"),
        ("good:shwo", "'shwo' is not a consumer or producer of good; it has: show"),
        ("good:", "'' is not a consumer or producer of good; it has: show"),
        ("./good.py", "'./good.py' is not the name of a module; write it as import does: good"),
        ("empty", "'empty' declares no consumer and no producer"),
    ],
)
def test_a_name_that_cannot_be_run(cli: CommandLine, name: str, expected: str) -> None:
    cli.file("package/__init__.py", "")
    cli.file("package/steps.py", GOOD)
    cli.file("empty.py", "")
    assert sentence(cli.run("run", name)).startswith(expected.format(directory=cli.directory))


CONSUMER = '@consumer(exchange="CTH", id="q")\n'
AROUND = """from functools import wraps
def around(f):
    {wraps}
    async def run(*a, **b):
        return await f(*a, **b)
    return run"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (f"{CONSUMER}def f(event): ...", r"f \(.*/wrong.py, line 4\) is not a coroutine function: write 'async def'"),
        (f"{CONSUMER}async def f(): ...", r"f \(.*, line 4\) takes no parameter: its first one gets the message"),
        (f"{CONSUMER}async def f(*all): ...", r"f \(.*, line 4\): parameter \*all must be a plain named one"),
        (
            f"{AROUND.format(wraps='@wraps(f)')}\n@around\n{CONSUMER}async def f(e): ...",
            r"f \(.*/wrong.py, line 10\): <consumer CTH/q> is wrapped; @consumer or @producer must be on top",
        ),
        (
            f"{AROUND.format(wraps='')}\n{CONSUMER}@around\nasync def f(e): ...",
            r"around.<locals>.run .*: parameter \*a must be a plain named one \(a decorator needs functools.wraps\)",
        ),
        (f"{CONSUMER}async def f(event, pool): ...", r"f \(.*\) wants pool, which only a lifespan\(\) in wrong can"),
        (f"{CONSUMER}async def f(m: Message): ...", r"f .*: the first parameter is the body; make Message the second"),
        (f"{CONSUMER}async def f(e, m: Message, n: Message): ...", r"f .*: exactly one parameter can be .* Message"),
        (f"{CONSUMER}async def f(e: list[dict], m: Message): ...", r"f .*: exactly one .* list\[Message\], as the"),
        (f"{CONSUMER}async def f(e: 'Unknown'): ...", r"f .*: an annotation cannot be read: name 'Unknown' is not"),
        ("@producer(exchange='CTH', id='p')\ndef f(): ...", r"f \(.*, line 4\) is not a coroutine function"),
        ("@producer(exchange='CTH', id='p')\nasync def f(pool): ...", r"f .* wants pool, which only a lifespan"),
        (
            "class Printer(Consumer):\n    async def process(self, event): ...",
            r"'wrong' declares no consumer and no producer: make an object of the class Printer, printer =",
        ),
        (
            "class P(Consumer):\n    def process(self, event): ...\np = P(exchange='CTH', id='q')",
            r"P.process \(.*, line 5\) is not a coroutine function: write 'async def'",
        ),
        (
            "class P(Consumer): ...\np = P(exchange='CTH', id='q')",
            r"<consumer CTH/q> does nothing: write 'async def process\(self, message\)'",
        ),
        (
            f"{CONSUMER}async def f(e): ...\n@consumer(exchange='CTH', id='q', retries=1)\nasync def g(e): ...",
            r"two consumers share the queue CTH/q with different retries: 5 and 1",
        ),
        (
            f"async def lifespan():\n    yield {{}}\n{CONSUMER}async def f(e): ...",
            r"lifespan \(.*\) is not a context manager: write @asynccontextmanager above it",
        ),
        (
            f"@asynccontextmanager\nasync def lifespan():\n    yield {{'pool': 1}}\n{CONSUMER}async def f(e, pol): ...",
            r"f \(.*\) wants 'pol'; lifespan\(\) yields: pool",
        ),
        ("@consumer(exchange='C/H', id='q')\nasync def f(e): ...", r".*/wrong.py, line 4: 'C/H' cannot be an exchange"),
        ("@consumer(exchange='CTH', id='q.1')\nasync def f(e): ...", r".*, line 4: 'q.1' cannot be an id: an id has"),
        ("@consumer(exchange='CTH', id='q', to='a b')\nasync def f(e): ...", r".*, line 4: 'a b' cannot be an"),
        (
            "@consumer(exchange='CTH', id='q', timeout='soon')\nasync def f(e): ...",
            r".*, line 4: 'soon' is not a duration: write seconds, or a number with ms, s, m, h or d",
        ),
        (
            "@consumer(exchange='CTH', id='q', concurrency=0)\nasync def f(e): ...",
            r".*, line 4: concurrency is 0; it takes a whole number of at least 1",
        ),
        (
            "@producer(exchange='CTH', id='p', every='61 * * * *')\nasync def f(): ...",
            r"f \(.*, line 4\): every='61 \* \* \* \*' of a producer is neither a duration like '10m' nor a cron",
        ),
        (
            "@producer(exchange='CTH', id='p', every='0 0 30 2 *')\nasync def f(): ...",
            r"f \(.*\): every='0 0 30 2 \*' of a producer is neither a duration like '10m' nor a cron expression",
        ),
        (
            "@producer(exchange='CTH', id='p', every='0 6 * * *', timezone='Europe/Berln')\nasync def f(): ...",
            r"f \(.*, line 4\): timezone='Europe/Berln' of a producer is not a time zone; did you mean 'Europe/Berlin'",
        ),
        (
            "@producer(exchange='CTH', id='p', every='0 6 * * *', timezone='')\nasync def f(): ...",
            r"f \(.*, line 4\): timezone='' of a producer is not a time zone; names are like 'Europe/Berlin' or 'UTC'",
        ),
        (
            "@producer(exchange='CTH', id='p', every='0 6 * * *', timezone=2)\nasync def f(): ...",
            r"f \(.*, line 4\): timezone=2 of a producer is not a time zone; names are like 'Europe/Berlin' or 'UTC'",
        ),
        (
            "@producer(exchange='CTH', id='p', every='10m', timezone='UTC')\nasync def f(): ...",
            r"f \(.*, line 4\): timezone='UTC' of a producer is for a cron expression, and every='10m' is",
        ),
        (
            "@producer(exchange='CTH', id='p')\nasync def f(): return object()",
            r"f \(.*, line 4\): an object of type object cannot be encoded as JSON",
        ),
        (
            "@producer(exchange='CTH', id='p')\nasync def f(): return bytes(128 * 1024 * 1024 + 1)",
            r"f \(.*, line 4\): a body of 134,217,729 bytes for 'CTH'; 134,217,728 are allowed",
        ),
        (
            "@producer(exchange='CTH', id='p')\nasync def f(): return Out({}, headers={'h': 'x' * 70_000})",
            r"f \(.*, line 4\): headers of 70,\d\d\d bytes for 'CTH'; 65,536 are allowed",
        ),
    ],
    ids=lambda value: value.splitlines()[-1][:40] if "\n" in value else "",
)  # fmt: skip
def test_a_module_that_cannot_work(cli: CommandLine, code: str, expected: str) -> None:
    imports = (
        "from contextlib import asynccontextmanager\nfrom mqasync import Consumer, Message, Out, consumer, producer\n\n"
    )
    cli.file("wrong.py", imports + code)
    assert re.match(expected, sentence(cli.run("run", "wrong", "--until-idle")))


@pytest.mark.parametrize("code", ["import nowhere", "def f(:", "1 / 0"])
def test_an_error_in_the_module_itself_is_shown_where_it_is_and_nowhere_else(cli: CommandLine, code: str) -> None:
    cli.file("broken.py", code)
    done = cli.run("run", "broken")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.findall(r'File "(.*)", line \d+', done.stderr) == [f"{cli.directory}/broken.py"]


# config.yml


def test_a_mistake_in_config_yml_is_said_with_its_place(cli: CommandLine) -> None:
    cli.file("config.yml", "exchanges:\n  CTH: {broker: x}")
    assert sentence(cli.run("run", "good")) == "config.yml, line 2: broker 'x' is not one of: main"


# the command line


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["produce", "--exchange", "C/H", "--id", "me", "{}"], "'C/H' cannot be an exchange: it takes 1 to 80 of the"),
        (["produce", "--exchange", "CTH", "--id", "m.e", "{}"], "'m.e' cannot be an id: an id has no dot and is not"),
        (["consume", "--exchange", "amq.x", "--id", "q"], "'amq.x' cannot be an exchange: names that start with"),
        (["consume", "--exchange", "CTH", "--id", ""], "'' cannot be an id: it takes 1 to 80 of the characters"),
        (["produce", *QUEUE, "{'n': 1}"], "the argument is neither a file nor JSON: \"{'n': 1}\": JSON is malformed"),
        (["produce", *QUEUE, "missing.jsonl"], "the argument is neither a file nor JSON: 'missing.jsonl': JSON is"),
        (["produce", *QUEUE, "CTH"], "the argument is neither a file nor JSON: 'CTH': JSON is malformed: invalid"
            " character (byte 0); text in JSON has quotes: '\"CTH\"', an exchange is an option: --exchange CTH"),
        (["run", "good", "--broker", "rabbit://h/"], "unknown URL scheme 'rabbit'; valid schemes: memory,"),
        (["run", "good", "--broker", "amqp://a:s3/cr3t@h/"], "--broker cannot be read as a URL: a port is a number"),
        (["run", "good", "--broker", "amqp://a:1?s3@h/"], "--broker cannot be read as a URL: a port is a number"),
        (["run", "good", "--broker", "sqlite:"], "'sqlite:' names no file: write sqlite:path or sqlite:///"),
        (["run", "good", "--broker", "sqlite:no/x.db"], "broker main at sqlite:no/x.db: the SQLite file /"),
        (["run", "good", "--broker", "sqlite:good.py"], "broker main at sqlite:good.py: the SQLite file /"),
        (["run", "good", "--broker", "sqlite:x?leese=1"], "unknown key 'leese' in 'sqlite:x?leese=1'; valid keys"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_on_the_command_line(cli: CommandLine, command: list[str], expected: str) -> None:
    said = sentence(cli.run(*command))
    assert said.startswith(expected)
    assert "s3" not in said and "cr3t" not in said


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["produce", *QUEUE, "--wait", "soon", "{}"], "Invalid value for '--wait': 'soon' is not a duration: write se"),
        (["run", "good", "--grace", "-1"], "Invalid value for '--grace': '-1' is not a duration: write seconds, or a "),
        (["consume", *QUEUE, "-n", "0"], "Invalid value for '-n' / '--count': 0 is not in the range x>=1."),
        (["consume", "--exchange", "CTH"], "Missing option '--id'."),
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["--broker", "memory:", "status"], "No such option '--broker'. Options of a command follow its name: mqasync"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_wrong_option_is_said_by_click(cli: CommandLine, command: list[str], expected: str) -> None:
    done = cli.run(*command)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"Error: {expected}")


@pytest.mark.parametrize("command", [["run", "good"], ["produce", *QUEUE, "{}"], ["consume", *QUEUE]], ids=" ".join)
def test_a_file_that_is_no_database_is_left_as_it_is(cli: CommandLine, command: list[str]) -> None:
    notes = cli.file("notes.txt", "not a database, but dear to somebody\n" * 50)
    expected = f"broker main at sqlite:notes.txt: the SQLite file {notes} cannot be used: file is not a database"
    assert sentence(cli.run(*command, "--broker", "sqlite:notes.txt")) == expected
    assert notes.read_text().startswith("not a database, but dear to somebody\nnot")


# brokers


@pytest.mark.parametrize(
    ("scheme", "package", "install"), [("amqp", "aiormq", "mqasync"), ("redis", "redis", "mqasync[redis]")]
)
def test_a_client_library_that_is_not_installed_is_named_with_the_pip_command(
    cli: CommandLine, scheme: str, package: str, install: str
) -> None:
    hidden = cli.file(
        f"hidden/{package}.py", f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
    )
    cli.environment["PYTHONPATH"] = str(hidden.parent)
    said = sentence(cli.run("run", "good", "--broker", f"{scheme}://guest:guest@localhost/"))
    assert said == f"the URL scheme '{scheme}' needs the package '{package}': pip install '{install}'"


@pytest.mark.parametrize("command", [["run", "good"], ["produce", *QUEUE, "{}"], ["consume", *QUEUE]], ids=" ".join)
def test_a_broker_that_is_down_is_tried_again_until_wait_is_over(cli: CommandLine, command: list[str]) -> None:
    address = f"127.0.0.1:{free_port()}/"
    done = cli.run(*command, "--broker", f"amqp://guest:s3cr3t@{address}", "--wait", "500ms")
    assert sentence(done, code=1) == f"no answer from amqp://guest:***@{address} within 0.5 s"
    tried = f"broker main at amqp://guest:***@{address} cannot be reached: "
    assert [tried in line and line.endswith("; trying again") for line in done.stderr.splitlines()].count(True) == 1
    assert "s3cr3t" not in done.stderr


def test_a_queue_that_exists_with_other_arguments_is_refused_with_both_values(
    cli: CommandLine, rabbitmq_url: str
) -> None:
    exchange = f"CTH-{uuid.uuid4().hex[:8]}"
    rabbit = CommandLine(cli.directory, rabbitmq_url)
    rabbit.declare(exchange, "q")
    rabbit.publish(exchange, "{}")
    rabbit.file("other.py", GOOD.replace("CTH", exchange))
    rabbit.file("config.yml", f"exchanges: {{{exchange}: {{options: {{x-max-length: 5}}}}}}")
    said = sentence(rabbit.run("run", "other"))
    assert "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue" in said
    assert "received the value '5' of type 'byte' but current is none" in said
    assert rabbit.depth(exchange, "q") == 1


# messages


def test_a_message_over_the_size_limit_is_refused_and_those_before_it_are_published(cli: CommandLine) -> None:
    cli.declare("large", "q")
    lines = cli.directory / "lines.jsonl"
    lines.write_text(f'{json.dumps({"n": 0})}\n"{"x" * 128 * 1024 * 1024}"\n')
    said = sentence(cli.run("produce", "--exchange", "large", "--id", "me", "lines.jsonl"))
    assert said == "a body of 134,217,730 bytes for 'large'; 134,217,728 are allowed"
    assert cli.depth("large", "q") == 1
