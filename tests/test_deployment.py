"""Everything in deploy/ and the Dockerfile: checked by the linters of its kind, and carried out as far as it can be."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jsonschema
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mqasync import __version__
from mqasync.duration import seconds
from mqasync.message import new_id
from mqasync.observe.report import Report
from mqasync.web.metrics import Metrics

from . import image
from .brokers import BrokerUnavailable, RabbitMQ, free_port
from .commands import CommandLine, eventually
from .conftest import installed, unavailable

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).with_name("data")
BIN = Path(sys.executable).parent
SAMPLE_ENRICHED = 43  # indicators of the sample feed that are neither duplicates nor allowed

COMPOSE = yaml.safe_load((ROOT / "compose.yml").read_text())
KUBERNETES = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "mqasync.yml").read_text()))
KEDA = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "keda.yml").read_text()))
ALERTS = ROOT / "deploy" / "prometheus" / "mqasync.rules.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "mqasync.json").read_text())
UNIT = (ROOT / "deploy" / "mqasync@.service").read_text()
PODS = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in KUBERNETES if one["kind"] == "Deployment"}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}


def lint(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert lint(str(BIN / "hadolint"), "Dockerfile") == ""


def test_the_compose_file_is_one() -> None:
    lint(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yml")


def test_the_kubernetes_manifests_are_valid() -> None:
    lint(str(BIN / "kubernetes-validate"), "--strict", "deploy/kubernetes/mqasync.yml")


def closed(schema: Any) -> Any:
    """The schema, in which a key that it does not name is an error, as for `kubectl --validate=strict`."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return named | {key: closed(value) for key, value in schema.items()}


@pytest.mark.parametrize("document", KEDA, ids=lambda document: str(document["kind"]))
def test_what_keda_gets_fits_its_own_definitions(document: dict[str, Any]) -> None:
    definition = yaml.safe_load((DATA / f"keda.sh_{document['kind'].lower()}s.yaml").read_text())
    schema = closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    jsonschema.validate(document, schema)


def test_keda_scales_what_is_deployed_and_has_the_url_that_the_pods_have() -> None:
    login, scaled = (one["spec"] for one in KEDA)
    [secret] = login["secretTargetRef"]
    for pod in PODS.values():
        assert {"name": "rabbitmq", "secret": {"secretName": secret["name"]}} in pod["volumes"]
    assert scaled["scaleTargetRef"]["name"] in PODS


def test_systemd_knows_every_line_of_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    installed("systemd-analyze", "systemd")
    unit = tmp_path / "mqasync@services.cth.service"
    # mqasync is not installed here
    unit.write_text(UNIT.replace("/opt/mqasync/.venv/bin/mqasync", shutil.which("true") or "/bin/true"))
    assert lint("systemd-analyze", "verify", str(unit)) == ""
    lint("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=20", str(unit))  # of 100


@pytest.fixture(scope="module")
def promtool() -> str:
    return installed("promtool", "prometheus")


def test_the_alerts_are_rules_that_say_what_they_should_when_they_should(promtool: str) -> None:
    lint(promtool, "check", "rules", "--lint-fatal", str(ALERTS))
    lint(promtool, "test", "rules", str(DATA / "alerts.yml"))


def test_what_the_dashboard_asks_for_can_be_asked(promtool: str, tmp_path: Path) -> None:
    queries = [query["expr"] for panel in DASHBOARD["panels"] for query in panel["targets"]]
    asked = [query.replace("$__rate_interval", "5m") for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    lint(promtool, "check", "rules", str(tmp_path / "rules.yml"))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_metric_of_alerts_and_dashboard_is_served_and_served_as_prometheus_likes_it(promtool: str) -> None:
    report = Report("", "", 1, (), 0.0, 0.0, {}, {}, {}, 0, {})
    served = Metrics().text(report, ())
    families = list(text_string_to_metric_families(served.decode()))
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    names = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    for text in (ALERTS.read_text(), json.dumps(DASHBOARD)):
        assert set(re.findall(r"\b(?:mqasync|process)_[a-z_]+", text)) <= names
    done = subprocess.run([promtool, "check", "metrics"], input=served, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def graces() -> Iterator[tuple[str, list[str], float]]:
    """Where, the command, and the seconds after which it is killed."""
    for name, service in COMPOSE["services"].items():
        if name != "rabbitmq":
            yield f"compose {name}", service["command"].split(), seconds(service["stop_grace_period"])
    for name, pod in PODS.items():
        yield f"kubernetes {name}", CONTAINERS[name]["args"], pod["terminationGracePeriodSeconds"]
    lines = dict(line.split("=", 1) for line in UNIT.splitlines() if "=" in line)
    yield "systemd", lines["ExecStart"].split(), seconds(lines["TimeoutStopSec"])


def test_nobody_is_killed_before_the_handlers_have_had_their_time() -> None:
    for where, command, killed in graces():
        grace = seconds(command[command.index("--grace") + 1])
        assert killed > grace + 1, f"{where}: the connections to the brokers are closed after the grace"


def test_what_is_deployed_is_this_version() -> None:
    images = {one["image"] for one in [*CONTAINERS.values(), COMPOSE["services"]["hunt"], COMPOSE["services"]["parse"]]}
    assert images == {f"mqasync:{__version__}"}


def compose(server: RabbitMQ, vhost: str) -> tuple[dict[str, list[str]], str, str]:
    """The commands by name, the configuration for this RabbitMQ, and the secret."""
    commands = {name: COMPOSE["services"][name]["command"].split() for name in ("hunt", "parse")}
    text = (ROOT / COMPOSE["configs"]["mqasync"]["file"]).read_text()
    for there, here in (
        ("amqp://mqasync:", "amqp://guest:"),
        ("@rabbitmq/?management=http://rabbitmq:15672", f"@127.0.0.1:{server.port}/{vhost}"),
    ):
        assert there in text
        text = text.replace(there, here)
    return commands, text, "guest"


def kubernetes(server: RabbitMQ, vhost: str) -> tuple[dict[str, list[str]], str, str]:
    """As above."""
    commands = {name: container["args"] for name, container in CONTAINERS.items()}
    [text] = (one["data"]["config.yml"] for one in KUBERNETES if one["kind"] == "ConfigMap")
    return commands, text, f"amqp://guest:guest@127.0.0.1:{server.port}/{vhost}"


@pytest.mark.parametrize("deployed", [compose, kubernetes])
def test_the_deployed_commands_and_configuration_do_the_whole_work(
    deployed: Any, rabbitmq_server: RabbitMQ, tmp_path: Path
) -> None:
    # Given a RabbitMQ to themselves, and their secret in a file
    vhost = new_id()
    rabbitmq_server.control("add_vhost", vhost)
    rabbitmq_server.control("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    commands, config, secret = deployed(rabbitmq_server, vhost)
    here = CommandLine(tmp_path, "")
    here.environment |= {"PYTHONPATH": str(ROOT)}
    here.file("config.yml", config.replace("/run/secrets", str(tmp_path / "secrets")).replace("/data", str(tmp_path)))
    for name in ("rabbitmq_password", "rabbitmq/url"):
        (tmp_path / "secrets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "secrets" / name).write_text(f"{secret}\n")
    try:
        # When the part that exists once is started, and then the part that is scaled, once KEDA finds its queue
        http = here.environment["MQASYNC_HTTP"] = f"127.0.0.1:{free_port()}"
        hunt = here.start(*commands["hunt"])
        queue = KEDA[1]["spec"]["triggers"][0]["metadata"]["queueName"]
        queues = ("list_queues", "-p", vhost, "--no-table-headers", "name")
        eventually(lambda: queue in rabbitmq_server.control(*queues).split(), f"{queue} is declared")
        here.environment["MQASYNC_HTTP"] = f"127.0.0.1:{free_port()}"
        parse = here.start(*commands["parse"])
        # Then the feed goes through both, and both are ready and end when they are told to
        archive = tmp_path / "cth.jsonl"
        eventually(
            lambda: archive.exists() and archive.read_text().count("\n") == SAMPLE_ENRICHED,
            f"{SAMPLE_ENRICHED} enriched indicators",
        )
        for probe in ("livenessProbe", "readinessProbe"):
            with urlopen(f"http://{http}{CONTAINERS['hunt'][probe]['httpGet']['path']}") as answer:
                assert answer.status == 200
        for running in (hunt, parse):
            running.process.terminate()
            assert running.ends() == 0
    finally:
        here.stop()
        rabbitmq_server.control("delete_vhost", vhost)


@pytest.mark.timeout(300)
def test_the_images_own_steps_make_one_that_runs_with_a_read_only_root_and_drains(tmp_path: Path) -> None:
    # Given the image, built as the Dockerfile says
    stage = image.stages()[-1]
    assert stage.user.isdecimal() and stage.user != "0", "Kubernetes' runAsNonRoot asks for a number"
    http = f"127.0.0.1:{free_port()}"
    entrypoint, healthcheck = stage.words["ENTRYPOINT"], stage.words["HEALTHCHECK"]
    once = image.inside(stage, tmp_path, [*entrypoint, *stage.words["CMD"], "--until-idle"], MQASYNC_LOG="human")
    serve = image.inside(stage, tmp_path, [*entrypoint, "run", "services.cth"], MQASYNC_HTTP=http)
    # the environment's proxy is not asked for this machine
    probe = image.inside(stage, tmp_path, healthcheck, MQASYNC_HTTP=http, http_proxy="http://127.0.0.1:1")
    try:
        script = image.build_and_run(
            tmp_path,
            [
                # When it runs its default command on a read-only root
                once,
                f"wc -l < {tmp_path}/final/data/cth.jsonl",
                probe + " && echo nothing listens: healthy",
                # And as a service that is probed, frozen and told to stop
                serve + " & ",
                f"until curl -sf http://{http}/health/ready; do sleep 0.1; kill -0 $!; done; echo",
                probe + " && echo healthy",
                "service=$(grep -ls ^PPid:.$!$ /proc/[0-9]*/status | cut -d/ -f3); kill -STOP $service",
                probe + " || echo unhealthy",
                "kill -CONT $service; kill -TERM $service; wait $!; echo drained with $?",
            ],
        )
    except BrokerUnavailable as error:
        unavailable(error)
    done = image.run(tmp_path, script)
    # Then it has handled the feed and ended as it should
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "enriched/archive" in done.stderr
    lines = done.stdout.splitlines()[-6:]
    assert int(lines[0]) == SAMPLE_ENRICHED
    assert lines[1] == "nothing listens: healthy"
    assert '"ready": true' in lines[2]
    assert lines[3:] == ["healthy", "unhealthy", "drained with 0"]
