"""deploy/ and the Dockerfile: checked by linters of their kinds, and the image's own steps carried out."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from . import image
from .brokers import BrokerUnavailable, apt_install, free_port
from .conftest import unavailable

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
KEDA = "github.com/kedacore/keda/v2@v2.17.2"


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


def test_what_keda_gets_fits_its_own_definitions() -> None:
    if not shutil.which("go"):
        try:
            apt_install("golang-go")
        except BrokerUnavailable as error:
            unavailable(error)
    told = subprocess.run(
        ["go", "mod", "download", "-json", KEDA], cwd="/", capture_output=True, text=True, check=False
    )
    if told.returncode:
        unavailable(BrokerUnavailable(f"{KEDA} cannot be fetched: {told.stdout.strip()[-300:]}"))
    schemas = {}
    for path in Path(json.loads(told.stdout)["Dir"], "config", "crd", "bases").glob("keda.sh_*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        schemas[definition["names"]["kind"]] = definition["versions"][0]["schema"]["openAPIV3Schema"]
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "keda.yml").read_text()))
    assert [document["kind"] for document in documents] == ["TriggerAuthentication", "ScaledObject"]
    for document in documents:
        jsonschema.validate(document, schemas[document["kind"]])
    trigger = documents[1]["spec"]["triggers"][0]["metadata"]
    assert trigger["queueName"] == "CTH.parse", "as transports/rabbitmq.py names the queue of CTH/parse"


def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        try:
            apt_install("systemd")
        except BrokerUnavailable as error:
            unavailable(error)
    unit = (ROOT / "deploy" / "mqasync@.service").read_text()
    installed = unit.replace(
        "/opt/mqasync/bin/mqasync", shutil.which("true") or "/bin/true"
    )  # it is not installed here
    (tmp_path / "mqasync@services.cth.service").write_text(installed)
    assert lint("systemd-analyze", "verify", str(tmp_path / "mqasync@services.cth.service")) == ""


@pytest.mark.timeout(300)
def test_the_images_own_steps_make_one_that_runs_with_a_read_only_root_and_drains(tmp_path: Path) -> None:
    # Given the image, built as the Dockerfile says
    stage = image.stages()[-1]
    assert stage.user.isdecimal() and stage.user != "0", "Kubernetes' runAsNonRoot asks for a number"
    http = f"127.0.0.1:{free_port()}"
    entrypoint, healthcheck = stage.words["ENTRYPOINT"], stage.words["HEALTHCHECK"]
    once = image.inside(stage, tmp_path, [*entrypoint, *stage.words["CMD"], "--until-idle"], MQASYNC_LOG="human")
    serve = image.inside(stage, tmp_path, [*entrypoint, "run", "services.cth"], MQASYNC_HTTP=http)
    probe = image.inside(stage, tmp_path, healthcheck, MQASYNC_HTTP=http)
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
                "kill -STOP $!",
                probe + " || echo unhealthy",
                "kill -CONT $!; kill -TERM $!; wait $!; echo drained with $?",
            ],
        )
    except BrokerUnavailable as error:
        unavailable(error)
    done = image.run(tmp_path, script)
    # Then it has handled the feed and ended as it should
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "enriched/archive" in done.stderr
    lines = done.stdout.splitlines()[-6:]
    assert int(lines[0]) == 43, "enriched indicators of the sample feed"
    assert lines[1] == "nothing listens: healthy"
    assert '"ready": true' in lines[2]
    assert lines[3:] == ["healthy", "unhealthy", "drained with 0"]
