"""Keys: nobody gets in without one, nobody gets further than its scopes, and a revoked one is out."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

import tailrace
from tailrace.access import credentials, keyfile
from tailrace.access.credentials import FileCredentials
from tailrace.access.principal import Scope
from tailrace.errors import NotAuthenticated, SettingsError
from tailrace.settings import Settings
from tailrace.telemetry import Happening, KeysFileBroken, KeysFileRead, Telemetry
from tests.patience import PATIENCE_SECONDS, tried_again
from tests.read_support import RUNS, Reading, request
from tests.security.conftest import Keys

OPEN = {"/healthz", "/readyz", "/openapi.json"}
RUN_CALLS = [
    ("GET", ""),
    ("GET", "/events"),
    ("GET", "/stream"),
    ("POST", "/cancel"),
    ("POST", "/stream-token"),
]
GARBAGE = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer tr_000000000000_" + "0" * 64,
    "Basic dHI6dHI=",
    "Bearer " + "A" * 4000,
    "Bearer \xff\xfe",
    "Bearer tr_",
]


def plain(answer: httpx2.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """What a client can tell two answers apart by."""
    return answer.status_code, answer.content, [(k, v) for k, v in answer.headers.items() if k != "date"]


async def test_every_route_but_the_open_ones_asks_for_a_key(server: Reading) -> None:
    """Taken from the routes themselves, so that none can be forgotten; and 401 comes before any look at the request."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        document = (await http.get("/openapi.json")).json()
        asked = 0
        for path, item in document["paths"].items():
            for method in item:
                answer = await http.request(method, path.replace("{runId}", "r"), content=b"{nonsense")
                if path in OPEN:
                    assert answer.status_code == 200
                    continue
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.headers["content-type"] == "application/problem+json"
                asked += 1
    assert asked == 8


async def test_what_is_no_key_is_refused_as_a_wrong_one(server: Reading, acme: str) -> None:
    """One answer for all, whatever is wrong: unknown id, wrong secret, another scheme, garbage."""
    wrong = [f"Bearer {acme[:-1]}{'0' if acme[-1] != '0' else '1'}", f"Bearer {acme}x", f"Bearer {acme.upper()}"]
    bodies = set()
    for value in [*GARBAGE, *wrong]:
        async with request(server.port, RUNS, headers={"Authorization": value}) as answer:
            assert answer.status == 401, value
            bodies.add(await answer.rest())
    assert len(bodies) == 1
    async with request(server.port, RUNS, headers={"Authorization": f"bearer {acme}"}) as answer:
        assert answer.status == 200
    twice = f"Bearer {acme}\r\nAuthorization: Bearer {acme}"
    async with request(server.port, RUNS, headers={"Authorization": twice}) as answer:
        assert answer.status == 400


async def test_a_scope_allows_what_it_says(server: Reading, keys: Keys) -> None:
    """403 names the scope that is missing; admin includes the others."""
    reader, writer = keys.make("acme", Scope.RUNS_READ), keys.make("acme", Scope.RUNS_WRITE)
    admin = keys.make("acme", Scope.ADMIN)
    server.services.credentials._look_at = 0  # type: ignore[attr-defined]
    body = {"agent": "echo", "runId": "r"}
    async with keys.client(server, reader) as r, keys.client(server, writer) as w, keys.client(server, admin) as a:
        refused = await r.post(RUNS, json=body)
        assert (refused.status_code, "runs:write" in refused.text) == (403, True)
        assert (await w.post(RUNS, json=body)).status_code == 201
        for method, path in RUN_CALLS:
            refused_to = r if path == "/cancel" else w
            assert (await refused_to.request(method, f"{RUNS}/r{path}")).status_code == 403
        for path in ("", "/events"):
            assert (await r.get(f"{RUNS}/r{path}")).status_code == 200
        assert (await w.get(RUNS)).status_code == 403
        for client, status in ((r, 403), (w, 403), (a, 200)):
            assert (await client.get("/metrics")).status_code == status
        assert (await a.get(f"{RUNS}/r")).json()["runId"] == "r"
        assert (await a.post(f"{RUNS}/r/cancel")).status_code == 202


@pytest.mark.parametrize("name", ["key", "token", "api_key", "access_token", "authorization", "x"])
async def test_a_key_in_the_url_is_refused_also_beside_a_good_header(server: Reading, acme: str, name: str) -> None:
    """400 from every route, with or without credentials, and the answer does not repeat it."""
    async with httpx2.AsyncClient(
        base_url=server.url, headers={"Authorization": f"Bearer {acme}"}, timeout=PATIENCE_SECONDS
    ) as http:
        for path in (RUNS, f"{RUNS}/r/stream", "/healthz", "/nowhere"):
            for value in (acme, f"Bearer%20{acme}", acme.replace("_", "%5F"), acme[:40]):
                answer = await http.get(f"{path}?{name}={value}")
                assert answer.status_code == 400, (path, value)
                assert acme[:30] not in answer.text
        assert (await http.get(f"{RUNS}?agent=tr_short")).status_code == 200


async def test_a_key_in_the_path_is_in_the_url_too(server: Reading, acme: str) -> None:
    """400, for paths are logged as queries are; a run's id that only looks like a key is an id."""
    async with httpx2.AsyncClient(
        base_url=server.url, headers={"Authorization": f"Bearer {acme}"}, timeout=PATIENCE_SECONDS
    ) as http:
        for path in (f"{RUNS}/{acme}", f"{RUNS}/{acme}/stream", f"/{acme}", f"{RUNS}/r/{acme.replace('_', '%5F')}"):
            answer = await http.get(path)
            assert answer.status_code == 400, path
            assert acme[:30] not in answer.text
        for run_id in (acme[:40], f"{acme}0", "tr_daily_2026112117000000", "tr_x"):
            assert (await http.get(f"{RUNS}/{run_id}")).status_code == 404


async def test_another_tenants_run_is_one_that_does_not_exist(
    server: Reading, keys: Keys, acme: str, globex: str
) -> None:
    """Byte for byte, headers and all, for every call; and the run is as it was."""
    async with keys.client(server, acme) as ours, keys.client(server, globex) as theirs:
        calls = [(method, f"{RUNS}/theirs{path}{query}") for method, path in RUN_CALLS for query in ("", "?fromSeq=1")]
        before = [plain(await ours.request(*call)) for call in calls]
        assert {status for status, _, _ in before} == {404}
        created = await theirs.post(RUNS, json={"agent": "echo", "runId": "theirs"})
        assert created.status_code == 201
        await server.publish()
        assert [plain(await ours.request(*call)) for call in calls] == before
        assert (await ours.get(RUNS)).json()["runs"] == []
        found = (await theirs.get(f"{RUNS}/theirs")).json()
        assert (found["state"], found["cancelRequestedAt"]) == ("queued", None)
        # An id that is taken cannot be given twice; the refusal is the one that a run of one's own causes.
        taken = await ours.post(RUNS, json={"agent": "echo", "runId": "theirs"})
        own = await theirs.post(RUNS, json={"agent": "echo", "runId": "theirs"})
        assert plain(taken) == plain(own)
        assert taken.status_code == 409


async def test_a_revoked_key_is_out_and_its_stream_ends(server: Reading, keys: Keys, acme: str, globex: str) -> None:
    """Without a restart, within about a second; nothing is sent to it from then on; others are not disturbed."""
    async with keys.client(server, acme) as ours, keys.client(server, globex) as theirs:
        await ours.post(RUNS, json={"agent": "echo", "runId": "r"})
        await server.publish()
        token = (await ours.post(f"{RUNS}/r/stream-token")).json()["token"]
        async with (
            request(server.port, f"{RUNS}/r/stream", headers={"Authorization": f"Bearer {acme}"}) as by_key,
            request(server.port, f"{RUNS}/r/stream?token={token}") as by_token,
        ):
            for answer in (by_key, by_token):
                await answer.upto(1)
            keys.revoke(acme)
            for answer in (by_key, by_token):
                assert (await answer.rest()).rpartition(b"retry: ")[2].strip().isdigit()
        assert (await ours.get(f"{RUNS}/r")).status_code == 401
        assert (await ours.get(f"{RUNS}/r/stream?token={token}", headers={"Authorization": ""})).status_code == 401
        async with request(server.port, f"{RUNS}/r/stream?token={token}") as answer:
            assert answer.status == 401
        assert (await theirs.get(RUNS)).status_code == 200


# -- the file ------------------------------------------------------------------------------------------------------


def test_a_file_that_breaks_leaves_what_it_said_last(keys: Keys, acme: str) -> None:
    """The log says so once; when it is mended it counts again."""
    happenings: list[Happening] = []
    clock = [0.0]
    found = FileCredentials(
        keys.path, Telemetry([happenings.append]), token_seconds=60, resume_seconds=60, clock=lambda: clock[0]
    )

    def later() -> str | None:
        clock[0] += credentials.LOOK_SECONDS
        return found.of_key(acme).tenant

    good = keys.path.read_bytes()
    for broken in (
        b"",
        b"{",
        b"[]",
        b'{"version":1,"keys":[],"signing":[]}',
        good[:-10],
        b"\xff" * 9,
        b"x" * 17_000_000,
    ):
        keys.path.write_bytes(broken)
        assert [later(), later()] == ["acme", "acme"]
    keys.path.unlink()
    assert later() == "acme"
    told = [happening for happening in happenings if isinstance(happening, KeysFileBroken)]
    assert 5 <= len(told) <= 8
    assert acme[-20:] not in str(told)
    keys.path.write_bytes(good)
    other = keys.make("other")
    clock[0] += credentials.LOOK_SECONDS
    assert found.of_key(other).tenant == "other"
    assert isinstance(happenings[-1], KeysFileRead)
    keys.revoke(acme)
    assert found.of_key(acme).tenant == "acme"  # It looks at bounded times.
    with pytest.raises(NotAuthenticated):
        later()


async def test_a_broken_file_at_start_is_a_clear_error(settings: Callable[..., Settings], tmp_path: Path) -> None:
    """Also one that is not there: nobody meant to start without credentials."""
    path = tmp_path / "keys.json"
    app = tailrace.App(settings(api_keys_file=path))
    with pytest.raises(SettingsError, match="tailrace keys create"):
        await app.running(["api"]).__aenter__()
    path.write_text('{"version": 1, "keys": [{"id": "canary"}]}')
    with pytest.raises(SettingsError, match="keys/0/") as refused:
        keyfile.read(path)
    assert "canary" not in str(refused.value)


def test_the_file_is_private_and_a_link_stays_a_link(tmp_path: Path) -> None:
    """Made 0600; a change keeps the mode it has been given, and follows a link to the file itself."""
    made = Keys(tmp_path / "keys.json")
    made.make("acme")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    made.path.chmod(0o640)
    link = Keys(tmp_path / "link.json")
    link.path.symlink_to(made.path)
    link.make("other")
    assert link.path.is_symlink()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o640
    assert [key.tenant for key in keyfile.read(made.path).keys] == ["acme", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock", "link.json"]


async def test_open_probes_say_nothing_of_the_inside(server: Reading, settings: Callable[..., Settings]) -> None:
    """Who may ask without a key is told that the database is away, not where it is."""
    address = server.database.address
    await server.database.close()
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, "DatabaseUnavailable" in answer.text) == (503, True)
        assert address not in answer.text
        assert (await http.get("/healthz")).status_code == 200
    await tried_again(server.database.open)
