"""What must be refused on the command line: exit 1 or 2, one line that says why, never a traceback."""

from __future__ import annotations

import sys

import pytest

from tailrace.cli import main

# Nothing listens there, so what is refused is refused before anything is sent.
NOWHERE = ("--url", "http://127.0.0.1:9")
NUMBERS = (
    "1_000", "+5", "-1", "\uff15", "\u0665", "²", " 5", "5 ", "5\n",
    "01", "0x10", "1.0", "1e3", "NaN", "", str(2**63), "9" * 5000,
)  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000
INPUTS = (
    "NaN", "[Infinity]", "1e400", '{"a":1,"a":2}', "[" * 65 + "]" * 65, DEEP, "[" * 100_000, "9" * 5000, str(2**64),
    "\ufeff{}", '"\\u0000"', '"\\ud800"', "\udcff", "{", "", "'x'", '{"a":"\n"}', "{} {}",
)  # fmt: skip
KEYS = ("", "a b", "a\nb", "é", "k" * 256, "\udcff")
RUN_IDS = ("", "..", "../r", "a/b", "a\r\nb", "a\x00b", "a\u2028b", "é", "a" * 129, "\udcff")
URLS = ("", "nonsense", "ftp://x", "http://", "http://[", "http://x:y", "http://\udcff")
COMMANDS = [
    *(("runs", "watch", "r", "--from-seq", number, *NOWHERE) for number in NUMBERS),
    *(("runs", "list", "--limit", number, *NOWHERE) for number in (*NUMBERS, "0", "501")),
    *(("outbox", "status", "--limit", number) for number in (*NUMBERS, "0", "1001")),
    *(("serve", "--port", number) for number in (*NUMBERS, "65536")),
    *(("runs", "start", "a", "--input", text, *NOWHERE) for text in INPUTS),
    *(("runs", "start", "a", "--idempotency-key", key, *NOWHERE) for key in KEYS),
    *(("runs", "start", "a", "--run-id", run_id, *NOWHERE) for run_id in RUN_IDS),
    *(("runs", "show", run_id, *NOWHERE) for run_id in RUN_IDS),
    *(("runs", "list", "--agent", agent, *NOWHERE) for agent in ("a\x00b", "\udcff")),
    *(("runs", "start", agent, *NOWHERE) for agent in ("", "a\x00b", "\udcff", "a" * 129)),
    *(("runs", "list", "--url", url) for url in URLS),
]  # fmt: skip


def called(*args: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["tailrace", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_what_is_bad_is_refused_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its exit code and on stderr; stdout stays empty, for a script may read it."""
    faults: list[tuple[object, ...]] = []
    for args in COMMANDS:
        try:
            code, out, err = called(*args, monkeypatch=monkeypatch, capsys=capsys)
        except Exception as error:  # noqa: BLE001 - all that escape are shown together
            faults.append((args[:4], repr(error)[:200]))
            continue
        if code not in (1, 2) or out or "Traceback" in err or not err or len(err) > 10_000:
            faults.append((args[:4], code, out[:100], err[:200]))
    assert not faults, "\n".join(str(fault)[:600] for fault in faults)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_position_is_plain_digits(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`int()` would take an underscore, a sign, spaces and foreign digits; it is a usage error."""
    code, _, err = called("runs", "watch", "r", "--from-seq", number, *NOWHERE, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "--from-seq" in err
