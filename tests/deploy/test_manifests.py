"""The Kubernetes manifests, as far as they can be checked without a cluster: the API's own schemas, and their fit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tailrace.cli.processes import STOP_SECONDS
from tailrace.settings import Settings
from tests.deploy.described import KUBERNETES, example_secret, hook_seconds, image, manifest, manifests

# The oldest whose fields are used, and the newest that is known.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
ROLES = ("api", "worker", "outbox")
ALL = list(manifests())


def name_of(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Return every pod's template by the name of its owner."""
    return [(name_of(each), each["spec"]["template"]) for each in ALL if each["kind"] in {"Job", "Deployment"}]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", ALL, ids=name_of)
def test_it_is_what_the_api_says(document: dict[str, Any], version: str) -> None:
    """Strictly: a field that the API does not know is an error."""
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    """So the test above can fail."""
    wrong = json.loads(json.dumps(manifest("Deployment", "tailrace-api")))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_example_of_the_secret_is_one_and_would_be_refused() -> None:
    """It has the entries that are mounted, and nobody is let in by an example that was forgotten."""
    document = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text("utf-8"))
    kubernetes_validate.validate(document, VERSIONS[0], strict=True)
    assert "secret.example.yaml" not in (KUBERNETES / "kustomization.yaml").read_text("utf-8").split("resources:")[1]
    assert set(example_secret()) == {".env", "keys.json"}
    with pytest.raises(json.JSONDecodeError):
        json.loads(example_secret()["keys.json"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl, which has kustomize in it")
def test_kustomize_puts_them_together() -> None:
    """All of them, with the image that the kustomization names."""
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, check=True, cwd=KUBERNETES
    ).stdout
    documents = list(yaml.safe_load_all(rendered))
    assert sorted(map(name_of, documents)) == sorted(map(name_of, ALL))
    for document in documents:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        if document["kind"] in {"Job", "Deployment"}:
            spec = document["spec"]["template"]["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                assert container["image"] == "registry.example/tailrace:0.1.0"
    monitoring = ["kubectl", "kustomize", str(KUBERNETES / "monitoring")]
    monitor = yaml.safe_load(subprocess.run(monitoring, capture_output=True, text=True, check=True).stdout)
    assert monitor["kind"] == "PodMonitor"


@pytest.mark.parametrize(("name", "template"), pods(), ids=[name for name, _ in pods()])
def test_a_pod_can_do_little_beyond_its_work(name: str, template: dict[str, Any]) -> None:
    """What the namespace's level `restricted` asks for, and a file system that cannot be written."""
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    (user,) = (each.value[0] for each in image() if each.cmd == "USER")
    assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == user
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    # Else a Service named tailrace-… would give every pod settings that are refused as unknown.
    assert spec["enableServiceLinks"] is False
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_has_longer_to_stop_than_it_takes(role: str) -> None:
    """The hook's time included, which the API alone needs: until the proxies have heard."""
    spec = manifest("Deployment", f"tailrace-{role}")["spec"]["template"]["spec"]
    hook = hook_seconds(spec["containers"][0])
    assert (hook > 0) is (role == "api")
    assert spec["terminationGracePeriodSeconds"] > hook + STOP_SECONDS


@pytest.mark.parametrize("role", ROLES)
def test_what_selects_pods_finds_those_of_one_role(role: str) -> None:
    """The Deployment, its budget, and how its pods are spread."""
    deployment = manifest("Deployment", f"tailrace-{role}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == role
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifest("PodDisruptionBudget", f"tailrace-{role}")["spec"]["selector"]["matchLabels"] == labels
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    # A budget of one at a time must leave one.
    assert deployment["spec"]["replicas"] >= 2


def test_requests_find_their_way_to_the_api() -> None:
    """Ingress to Service to port; and no buffering on the way, for an hour of silence."""
    service, ingress = manifest("Service", "tailrace-api"), manifest("Ingress", "tailrace")
    template = manifest("Deployment", "tailrace-api")["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    annotations = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert annotations["proxy-buffering"] == "off"
    assert int(annotations["proxy-read-timeout"]) >= 3600


def test_the_monitor_selects_what_serves() -> None:
    """All roles, by the port that they name, as one job."""
    monitor = yaml.safe_load((KUBERNETES / "monitoring" / "podmonitor.yaml").read_text("utf-8"))["spec"]
    (expression,) = monitor["selector"]["matchExpressions"]
    assert set(expression["values"]) == set(ROLES)
    (endpoint,) = monitor["podMetricsEndpoints"]
    for role in ROLES:
        template = manifest("Deployment", f"tailrace-{role}")["spec"]["template"]
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert endpoint["port"] in {each["name"] for each in template["spec"]["containers"][0]["ports"]}


def test_no_setting_is_unknown_and_no_secret_is_in_the_map() -> None:
    """What holds a password is mounted."""
    settings = manifest("ConfigMap", "tailrace-settings")["data"]
    assert set(settings) <= {f"TAILRACE_{name.upper()}" for name in Settings.model_fields}
    assert not {"TAILRACE_DATABASE_URL", "TAILRACE_BUS_URL", "TAILRACE_API_KEY"} & set(settings)
    keys = Path(settings["TAILRACE_API_KEYS_FILE"])
    for _, template in pods():
        for container in template["spec"]["containers"]:
            assert str(keys.parent) in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert keys.name in example_secret()
