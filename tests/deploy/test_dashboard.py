"""Every query of the dashboard, and of the alerts, names what our processes expose."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.exporters.prometheus import PrometheusExporter

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
DASHBOARD = DEPLOY / "grafana" / "tailrace.json"
RULES = DEPLOY / "prometheus" / "tailrace.rules.yml"
_METRIC = re.compile(r"\btailrace_\w+")


def exposed() -> set[str]:
    """Return the names of the samples that a query may ask for."""
    names = set()
    for metric in PrometheusExporter().registry.collect():
        match metric.type:
            case "counter":
                names.add(f"{metric.name}_total")
            case "histogram":
                names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
            case _:
                names.add(metric.name)
    return names


def queries() -> Iterator[tuple[str, str]]:
    """Yield each panel's title and query."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in document["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_every_query_names_a_metric_that_exists() -> None:
    """In every panel and in every alert; and no metric is without a place on the dashboard."""
    asked: set[str] = set()
    for title, query in queries():
        names = set(_METRIC.findall(query))
        assert names, title
        assert names <= exposed(), title
        asked |= names
    in_alerts = set(re.findall(r"\btailrace_\w+", "".join(re.findall(r"expr: (.*)", RULES.read_text("utf-8")))))
    assert len(in_alerts) == 4
    assert in_alerts <= exposed()
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert shown == {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed()}


def test_the_dashboard_is_laid_out() -> None:
    """Ids are unique, panels do not overlap, and the data source and the job are the reader's to choose."""
    document = json.loads(DASHBOARD.read_text("utf-8"))
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert [variable["name"] for variable in document["templating"]["list"]] == ["datasource", "job"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool; apt-get install prometheus")
async def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    """As rules, with Grafana's variables filled in."""
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m").replace("$job", ".+")}
        for number, (_, query) in enumerate(queries())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    process = await asyncio.create_subprocess_exec(
        *("promtool", "check", "rules", str(tmp_path / "rules.yml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert f"{len(rules)} rules found" in said
