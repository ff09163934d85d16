"""The Markdown of the report."""

from __future__ import annotations

import pytest

from tailrace.demo import report
from tailrace.demo.ranking import Digested, rank
from tailrace.demo.report import code, render

TEXTS = [
    Digested("a.py", {"lines": 1200, "words": 3, "terms": ""}, [("alpha", 2.5), ("beta", 1.0)]),
    Digested("b|c.md", {"lines": 2, "words": 1, "terms": ""}, []),
]


def test_the_report_says_what_was_found() -> None:
    """The whole of it, for two files."""
    assert render("/f", rank(TEXTS), TEXTS, {"binary": 1, "undecodable": 2}) == (
        "# Digest of `/f`\n"
        "\n"
        "2 text files, 1,202 lines, 4 words.\n"
        "Left out: 1 binary, 2 not UTF-8.\n"
        "\n"
        "## Kinds of files\n"
        "\n"
        "| suffix | files | lines | words |\n"
        "| --- | --- | --- | --- |\n"
        "| `.py` | 1 | 1,200 | 3 |\n"
        "| `.md` | 1 | 2 | 1 |\n"
        "\n"
        "## The longest files\n"
        "\n"
        "| file | lines | words | most telling terms |\n"
        "| --- | --- | --- | --- |\n"
        "| `a.py` | 1,200 | 3 | `alpha`, `beta` |\n"
        "| `b\\|c.md` | 2 | 1 |  |\n"
        "\n"
        "## The most telling terms\n"
        "\n"
        "The term that sets a file apart most: frequent in it, rare in the others (TF-IDF).\n"
        "\n"
        "| score | term | file |\n"
        "| --- | --- | --- |\n"
        "| 2.500 | `alpha` | `a.py` |\n"
        "\n"
        "## Every file\n"
        "\n"
        "| file | lines | words | most telling terms |\n"
        "| --- | --- | --- | --- |\n"
        "| `a.py` | 1,200 | 3 | `alpha`, `beta` |\n"
        "| `b\\|c.md` | 2 | 1 |  |\n"
    )


def test_what_is_not_listed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is cut, never silently."""
    monkeypatch.setattr(report, "ROWS_MAX", 1)
    assert render("/f", rank(TEXTS), TEXTS, {}).endswith("\n\n1 more files were counted and are not listed.\n")
    assert "Left out: nothing.\n" in render("/f", rank(TEXTS), TEXTS, {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "`plain`"), ("a`b", "`` a`b ``"), ("a\nb\x1b[2J", "`a\ufffdb\ufffd[2J`"), ("a|b", "`a\\|b`")],
)
def test_no_file_name_breaks_out_of_its_cell(text: str, shown: str) -> None:
    """Names are shown as they are, and do nothing."""
    assert code(text) == shown
