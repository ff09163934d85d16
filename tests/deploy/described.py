"""What the files in ``deploy`` say, read from them: which processes there are, with which arguments and settings.

``tests/deploy/test_layouts.py`` starts just these, so that the files and what was tried cannot drift apart.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dockerfile
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
SYSTEMD = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"
# Where the image, and the units, have what a process needs; tests have it elsewhere.
WORKING_FOLDER = "/srv/tailrace"
PROGRAM = "/opt/tailrace/bin/tailrace"


@dataclass(frozen=True)
class Program:
    """One process of ours: what follows `tailrace` on its command line, and what it finds around it."""

    arguments: list[str]
    environment: dict[str, str]
    # The text of `.env` in its working folder, None where there is no such file.
    dotenv: str | None
    # Between SIGTERM and SIGKILL.
    grace_seconds: float
    # Kubernetes: what is asked for by its probes.
    probes: dict[str, str] = field(default_factory=dict)


def image() -> list[Any]:
    """Return the instructions of the Dockerfile."""
    return list(dockerfile.parse_file(str(ROOT / "Dockerfile")))


def healthcheck() -> list[str]:
    """Return the command of the image's HEALTHCHECK."""
    (found,) = (each for each in image() if each.cmd == "HEALTHCHECK")
    kind, *command = found.value
    assert kind == "CMD"
    return list(command)


def compose() -> dict[str, Any]:
    """Return the compose file, its merges carried out."""
    document: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yml").read_text("utf-8"))
    return document


def compose_program(name: str, secrets: Path) -> Program:
    """Return a service of ours; ``secrets`` is the folder that prepare.sh has filled."""
    document = compose()
    service = document["services"][name]
    entrypoint = service.get("entrypoint", ["tailrace"])
    assert entrypoint[0] == "tailrace"
    dotenv = None
    for mount in service["secrets"]:
        assert mount["target"] == f"{WORKING_FOLDER}/.env"
        file = Path(document["secrets"][mount["source"]]["file"])
        assert file.parent == Path("secrets")
        dotenv = (secrets / file.name).read_text("utf-8")
    return Program(
        arguments=[*entrypoint[1:], *service["command"]],
        environment=service["environment"],
        dotenv=dotenv,
        grace_seconds=_seconds(service["stop_grace_period"]),
    )


def manifests() -> Iterator[dict[str, Any]]:
    """Yield the objects that `kubectl apply --kustomize` would create, before kustomize has changed them."""
    for name in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))["resources"]:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text("utf-8"))


def manifest(kind: str, name: str) -> dict[str, Any]:
    """Return one of them."""
    (found,) = (each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def example_secret() -> dict[str, str]:
    """Return the entries of the example of the secret."""
    document = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text("utf-8"))
    entries: dict[str, str] = document["stringData"]
    return entries


def kubernetes_program(kind: str, name: str) -> Program:
    """Return the container of a Job or of a Deployment."""
    pod = manifest(kind, name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings: dict[str, str] = {}
    for source in container["envFrom"]:
        settings |= manifest("ConfigMap", source["configMapRef"]["name"])["data"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[f"{WORKING_FOLDER}/.env"]["subPath"] == ".env"
    return Program(
        arguments=container["args"],
        environment=settings,
        dotenv=example_secret()[".env"],
        # Kubernetes counts the time of the hook as well.
        grace_seconds=pod.get("terminationGracePeriodSeconds", 30) - hook_seconds(container),
        probes={
            probe: container[probe]["httpGet"]["path"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
            if probe in container
        },
    )


def hook_seconds(container: Mapping[str, Any]) -> float:
    """Return how long the container's preStop hook takes."""
    hook = container.get("lifecycle", {}).get("preStop")
    if hook is None:
        return 0
    sleep, seconds = hook["exec"]["command"]
    assert sleep == "sleep"
    return float(seconds)


def unit(name: str) -> dict[str, list[str]]:
    """Return every value of every key of a unit, with the drop-in for all units of ours."""
    values: dict[str, list[str]] = {}
    for path in (SYSTEMD / name, SYSTEMD / "tailrace-.service.d" / "10-common.conf"):
        for line in path.read_text("utf-8").splitlines():
            if line and line[0] not in "#[":
                key, _, value = line.partition("=")
                values.setdefault(key, []).append(value)
    return values


def systemd_program(name: str, instance: str = "") -> Program:
    """Return what a unit starts; ``instance`` is what stands behind the @."""
    values = unit(name)
    (command,) = values["ExecStart"]
    program, *arguments = shlex.split(command)
    assert program == PROGRAM
    assert values["WorkingDirectory"] == [WORKING_FOLDER]
    assert values["EnvironmentFile"] == ["/etc/tailrace/tailrace.env"]
    environment = {}
    for line in (SYSTEMD / "tailrace.env.example").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            environment[key] = value
    (grace,) = values["TimeoutStopSec"]
    return Program([each.replace("%i", instance) for each in arguments], environment, None, float(grace))


def _seconds(text: str) -> float:
    assert text.endswith("s"), text
    return float(text.removesuffix("s"))
