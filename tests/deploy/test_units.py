"""The systemd units, by systemd's own judgement; systemd itself does not run here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tailrace.cli.processes import STOP_SECONDS
from tailrace.settings import Settings
from tests.deploy.described import PROGRAM, SYSTEMD, systemd_program, unit
from tests.deploy.started import TAILRACE

UNITS = ("tailrace-api@.service", "tailrace-worker@.service", "tailrace-outbox@.service")
# Of 100; a unit without any hardening has 96.
EXPOSURE_MAX = 20

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze; on Debian: apt-get install systemd"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they would be installed, with the program that is there: verify wants it to be."""
    folder = tmp_path / "system"
    shutil.copytree(SYSTEMD, folder)
    for path in folder.glob("*.service"):
        path.write_text(path.read_text("utf-8").replace(PROGRAM, str(TAILRACE)), "utf-8")
    return folder


def verify(folder: Path) -> str:
    """Return what systemd has to say of the units, and of all that they draw in."""
    files = [str(folder / name) for name in ("tailrace.target", "tailrace-migrate.service")]
    command = ["systemd-analyze", "verify", "--man=no", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "tailrace" in line]
    assert done.returncode == 0 or said, done.stderr
    return "\n".join(said)


def test_systemd_understands_every_line(installed: Path) -> None:
    """With the drop-in for all of them; and it would notice what it does not understand, in each."""
    assert verify(installed) == ""
    for name in (*UNITS, "tailrace-.service.d/10-common.conf"):
        path = installed / name
        good = path.read_text("utf-8")
        path.write_text(good.replace("[Service]", "[Service]\nKilMode=mixed"), "utf-8")
        assert "KilMode" in verify(installed), name
        path.write_text(good, "utf-8")


@pytest.mark.parametrize("name", [*UNITS, "tailrace-migrate.service"])
def test_a_unit_can_do_little_beyond_its_work(installed: Path, name: str) -> None:
    """By systemd's own count of what is left open."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(installed / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"exposure level for tailrace-\S+: [\d.]+ OK", done.stdout)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_stops_in_order_and_comes_back(name: str) -> None:
    """The main process is told and has longer than it takes; what is wrong with the settings is not tried again."""
    values = unit(name)
    assert values["Type"] == ["exec"]
    assert values["KillSignal"] == ["SIGTERM"]
    assert values["KillMode"] == ["mixed"]
    assert systemd_program(name).grace_seconds > STOP_SECONDS
    assert (values["Restart"], values["RestartPreventExitStatus"]) == (["on-failure"], ["2"])
    assert values["StartLimitIntervalSec"] == ["0"]


def test_the_target_names_instances_of_the_units_on_ports_of_their_own() -> None:
    """And those are the instances that an enabled template gets."""
    wanted = re.search(r"^Wants=(.+)$", (SYSTEMD / "tailrace.target").read_text("utf-8"), re.MULTILINE)
    assert wanted is not None
    found: list[tuple[str, str]] = re.findall(r"(\S+@)(\d+)\.service", wanted[1])
    instances = dict(found)
    assert len(found) == len(wanted[1].split())
    assert {f"{name}.service" for name in instances} == set(UNITS)
    assert len(set(instances.values())) == len(instances)
    for name, port in instances.items():
        assert unit(f"{name}.service")["DefaultInstance"] == [port]


def test_the_environment_file_names_settings() -> None:
    """Those that are commented out too."""
    named = re.findall(r"^#?(TAILRACE_\w+)=", (SYSTEMD / "tailrace.env.example").read_text("utf-8"), re.MULTILINE)
    assert set(named) <= {f"TAILRACE_{name.upper()}" for name in Settings.model_fields}
    assert "TAILRACE_DATABASE_URL" in named


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="there is no systemd-sysusers")
def test_the_user_of_the_units_is_made() -> None:
    """By the file for sysusers.d."""
    command = ["systemd-sysusers", "--dry-run", "--root=/nonexistent", str(SYSTEMD / "tailrace.sysusers")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (user,) = unit(UNITS[0])["User"]
    assert f"Creating user '{user}'" in done.stdout + done.stderr
