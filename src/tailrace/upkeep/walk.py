"""What the canary's walk says: findings where something was asked for, notes where it was not."""

from __future__ import annotations

from tailrace.upkeep.canary import ARRIVAL_SECONDS, Walk
from tailrace.upkeep.finding import Code, Finding

UNBUFFERED = (
    "let the proxy pass `X-Accel-Buffering: no` on, or set `proxy_buffering off; proxy_cache off; "
    "proxy_read_timeout 3600s` for …/stream (deploy/nginx/tailrace.conf does)"
)


def conclude(walk: Walk, url: str | None, *, others: bool) -> list[Finding]:
    """Return the findings of a walk, through ``url`` if that is given, and note what is none.

    :param others: whether another process of Tailrace was heard; without one there is no outbox to be expected.
    """
    if walk.not_walked is not None:
        return [_no_way(url, walk.not_walked)] if url is not None else []
    if not walk.published:
        return _not_published(walk, expected=others or url is not None)
    if url is None:
        if walk.trouble is not None:
            walk.notes.append(walk.trouble)
        return []
    findings = []
    if walk.encoding not in (None, "identity"):
        findings.append(_compressed(url, str(walk.encoding)))
    if walk.kept_back:
        findings.append(_buffered(url, walk))
    elif walk.trouble is not None:
        findings.append(_no_way(url, walk.trouble))
    return findings


def _not_published(walk: Walk, *, expected: bool) -> list[Finding]:
    said = f"nothing published the canary within {ARRIVAL_SECONDS:g} s"
    if not expected:
        walk.notes.append(f"{said}: no other process of Tailrace is heard; start `tailrace serve` to have it walked")
        return []
    return [
        Finding(
            Code.OUTBOX_BEHIND,
            "critical",
            f"{said}, though other processes of Tailrace are there",
            "start the outbox (`tailrace serve --role outbox`, or all roles), or restart it; never touch published_at "
            "or next_seq by hand",
        )
    ]


def _no_way(url: str | None, said: str) -> Finding:
    return Finding(
        Code.URL_UNREACHABLE,
        "critical",
        f"the canary could not walk through {url}: {said}",
        "check the URL, the key in TAILRACE_API_KEY or --api-key-file, and that `tailrace serve` runs behind it",
    )


def _compressed(url: str, encoding: str) -> Finding:
    return Finding(
        Code.PROXY_COMPRESSES,
        "warning",
        f"the stream through {url} came with Content-Encoding: {encoding}; Tailrace sends it plain, with no-transform",
        "switch compression off for …/stream (`gzip off` in nginx): a compressor keeps events back until it has enough",
    )


def _buffered(url: str, walk: Walk) -> Finding:
    came = f"{walk.arrived} of {walk.published} arrived in the end, pushed on by what followed"
    return Finding(
        Code.PROXY_BUFFERS,
        "critical",
        f"events that were published did not arrive through {url} in time: {came}",
        UNBUFFERED,
    )
