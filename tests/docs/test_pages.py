"""What holds for every document: its links lead somewhere, and what it names exists."""

from __future__ import annotations

import re

import pytest

from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.settings import PREFIX, Settings
from tests.docs.page import ROOT, RUNNABLE, Page

RUN = ("docs/runbook.md", "docs/guide.md", "docs/from-in-memory.md")
ALL = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md"))
)
NOT_RUN_MAX = 2
# A role of Postgres and a fixture.
NO_METRICS = {"tailrace_app", "tailrace_database"}


@pytest.mark.parametrize("path", ALL)
def test_every_link_leads_somewhere(path: str) -> None:
    """To a file of this repository, and to a heading of it where one is named."""
    page = Page(path)
    for link in page.links:
        target, _, anchor = link.partition("#")
        found = (page.path.parent / target).resolve() if target else page.path
        assert found.exists(), link
        if anchor and found.suffix == ".md":
            assert anchor in Page(str(found.relative_to(ROOT))).anchors, link


@pytest.mark.parametrize("path", ALL)
def test_every_setting_and_metric_that_is_named_exists(path: str) -> None:
    """Under exactly that name."""
    text = Page(path).text
    for name in set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*[A-Z]\b", text)):
        assert name.removeprefix(PREFIX).lower() in Settings.model_fields, name
    exposed = {family.name for family in PrometheusExporter().registry.collect()}
    for name in set(re.findall(r"\btailrace_[a-z_]*[a-z]\b", text)) - NO_METRICS:
        assert any(name.startswith(family) for family in exposed), name


@pytest.mark.parametrize("path", RUN)
def test_every_block_of_the_three_pages_is_run(path: str) -> None:
    """Each is a file, a command or a statement, as the tests beside this one run them; hardly any is left out."""
    page = Page(path)
    for block in page.blocks:
        if block.language in ("python", "toml"):
            assert block.file is not None, block.text
        else:
            assert block.language in (*RUNNABLE, "nginx"), block.language
    assert len([block for block in page.blocks if block.reason is not None]) <= NOT_RUN_MAX
    assert page.of("sh") or page.of("python")


def test_every_log_line_that_the_runbook_names_is_written() -> None:
    """As the exporter writes it."""
    source = (ROOT / "src" / "tailrace" / "exporters" / "logs.py").read_text("utf-8")
    named = set(re.findall(r"\b(?:stream|duty|outbox|wakeups|worker|metric)\.[a-z_.]*[a-z]\b", Page(RUN[0]).text))
    for name in named:
        assert f'"{name}"' in source, name
