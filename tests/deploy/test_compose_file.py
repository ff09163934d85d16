"""The compose file, as far as it can be checked without an engine: the specification's schema, and what it names."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.cli.processes import STOP_SECONDS
from tailrace.settings import Settings
from tests.deploy.described import COMPOSE, DEPLOY, ROOT, compose

OURS = ("migrate", "api", "worker", "outbox", "keys")
SERVICES: dict[str, dict[str, Any]] = compose()["services"]


def schema_says(path: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against the compose specification's own schema, a copy of which comes with check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_what_the_specification_says(tmp_path: Path) -> None:
    """No key is misspelt and no value of the wrong type; and the schema would notice one."""
    done = schema_says(COMPOSE / "compose.yml")
    assert done.returncode == 0, done.stdout
    text = (COMPOSE / "compose.yml").read_text("utf-8")
    (tmp_path / "compose.yml").write_text(text.replace("stop_grace_period: 45s", "stop_grace_periods: 45s", 1))
    assert "stop_grace_periods" in schema_says(tmp_path / "compose.yml").stdout


def test_everything_it_refers_to_is_there() -> None:
    """Services, volumes, networks, secrets, and the files that are mounted; secrets are what prepare.sh makes."""
    document = compose()
    prepared = set(re.findall(r"keep ([\w.]+)", (COMPOSE / "prepare.sh").read_text("utf-8")))
    assert {Path(secret["file"]).name for secret in document["secrets"].values()} == prepared
    assert "/deploy/compose/secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert (COMPOSE / "prepare.sh").stat().st_mode & stat.S_IXUSR
    used: set[str] = set()
    for name, service in SERVICES.items():
        assert set(service["networks"]) <= set(document["networks"]), name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for secret in service.get("secrets", []):
            used.add(secret if isinstance(secret, str) else secret["source"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), (name, source)
            else:
                used.add(f"volume {source}")
    assert used == set(document["secrets"]) | {f"volume {each}" for each in document["volumes"]}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_bounded_watched_and_pinned(name: str) -> None:
    """Memory, restarts, a healthcheck or a reason for none, a tag that is not `latest`, no new privileges."""
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+", service["image"])
    assert "mem_limit" in service
    assert "no-new-privileges:true" in service["security_opt"]
    once = name in {"migrate", "keys"}
    assert service["restart"] == ("no" if once else "unless-stopped")
    if name in OURS:
        assert service.get("healthcheck") == ({"disable": True} if once else None)  # else that of the image
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    else:
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_our_processes_get_longer_to_stop_than_they_take() -> None:
    """The parent of `--processes` kills its children before it is killed itself."""
    for name in OURS:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > STOP_SECONDS


def test_what_serves_waits_for_the_migration() -> None:
    """Else it would end at once: the schema is behind."""
    for name in ("api", "worker", "outbox"):
        waits = SERVICES[name]["depends_on"]
        assert waits["migrate"] == {"condition": "service_completed_successfully"}
        assert waits["postgres"] == {"condition": "service_healthy"}
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_no_setting_is_unknown_and_no_secret_is_in_an_environment() -> None:
    """The second half of what Tailrace itself checks at its start."""
    known = {f"TAILRACE_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= known
    for service in SERVICES.values():
        for variable in service.get("environment", {}):
            assert not re.search(r"(PASSWORD|_URL|_KEY)$", variable), variable


def test_grafana_finds_the_dashboard_and_prometheus_its_rules() -> None:
    """The provisioned paths are those of the mounts, and the addresses those of the services."""
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    provisioning = DEPLOY / "grafana" / "provisioning"
    assert (COMPOSE / mounts["/etc/grafana/provisioning"]).resolve() == provisioning
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tailrace.yml").read_text("utf-8"))["providers"]
    dashboard = mounts[f"{provider['options']['path']}/tailrace.json"]
    assert json.loads((COMPOSE / dashboard).read_text("utf-8"))["panels"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "tailrace.yml").read_text("utf-8"))["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert f":{port}" in SERVICES[host]["ports"][0]
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["prometheus"]["volumes"]}
    for rules in configuration["rule_files"]:
        assert (COMPOSE / mounts[f"/etc/prometheus/{rules}"]).exists()
    (job,) = configuration["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    for name in found["names"]:
        assert SERVICES[name]["expose"] == [str(found["port"])]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{SERVICES['prometheus']['secrets'][0]}"
