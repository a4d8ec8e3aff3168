"""Every route refuses whoever has no token, readers that would write, other websites and other names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.testclient import TestClient

from controller.web.access import SECURITY_HEADERS, Attempts, Site
from controller.web.desk import Desk
from tests.web.support import HOST, PORT, Bench, next_task, submission

WRITING = ("POST", "PUT", "PATCH", "DELETE")


def every_route(bench: Bench) -> list[tuple[str, str]]:
    """Return method and address of all routes, with something that is there in place of each parameter."""
    values = {"name": "page.js", "sample_id": bench.sample(0).id, "channel": "raw"}
    found = []
    for route in bench.app().routes:
        assert isinstance(route, Route), "a mount would hide routes from this test"
        path = re.sub(r"{(\w+)(:\w+)?}", lambda match: values[match[1]], route.path)
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


def test_there_is_something_to_refuse(bench: Bench) -> None:
    routes = every_route(bench)
    assert len(routes) > 20
    writing = {path for method, path in routes if method in WRITING}
    assert writing == {f"/api/{name}" for name in ("next", "answer", "renew", "release", "revisit")}


def test_no_route_is_open_without_a_token_or_with_a_wrong_or_a_revoked_one(bench: Bench) -> None:
    bench.ask("1")
    revoked = bench.store.new_token(bench.other)
    bench.store.revoke_tokens(bench.other)
    nowhere = [("GET", "/nowhere"), ("GET", "/api/nowhere"), ("GET", "/static/../secret.js")]
    with bench.client() as client:
        for method, path in [*every_route(bench), *nowhere]:
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": f"Bearer {revoked}"},
                {"authorization": f"Basic {bench.token}"},
                {"authorization": bench.token},
                {"cookie": f"stedfast_{PORT}=wrong"},
                {"cookie": f"stedfast_{PORT}={revoked}"},
                {"cookie": f"stedfast_{PORT + 1}={bench.token}"},
            ):
                reply = client.request(method, path, headers=headers, json={"lease_id": "x"})
                assert reply.status_code == 401, (method, path, headers)
                assert "set-cookie" not in reply.headers
    assert bench.store.counts().leased == 0


def test_the_same_routes_open_with_a_token(bench: Bench) -> None:
    with bench.client(bench.token) as client:
        for method, path in every_route(bench):
            if path != "/login":
                reply = client.request(method, path, json={} if method in WRITING else None)
                assert reply.status_code in ({200, 422} if method in WRITING else {200}), (method, path)


def test_a_reader_looks_and_writes_nothing(bench: Bench) -> None:
    bench.ask("1")
    with bench.client(bench.token) as page:
        lease = next_task(page)["lease"]["id"]
    with bench.client(bench.reader_token) as reader:
        for method, path in every_route(bench):
            if path != "/login":
                reply = reader.request(method, path, json=submission(lease))
                assert reply.status_code == (403 if method in WRITING else 200), (method, path)
    assert bench.store.answers(kept_only=False) == []


def test_a_revoked_token_is_worthless_at_once(bench: Bench, page: TestClient) -> None:
    assert page.get("/api/me").status_code == 200
    bench.store.revoke_tokens(bench.expert)
    assert page.get("/api/me").status_code == 401


def test_a_link_sets_a_cookie_that_no_script_reads_and_no_website_sends(bench: Bench) -> None:
    with bench.client() as client:
        reply = client.get(f"/login?token={bench.token}")
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        cookie = reply.headers["set-cookie"].lower()
        assert cookie.startswith(f"stedfast_{PORT}=")
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "domain" not in cookie
        assert client.get("/").status_code == 200
        assert client.get("/api/me").json()["annotator"]["name"] == "ada"


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=%ff", "?token=%00", "?t=1"])
def test_a_wrong_link_shows_a_page_that_says_so(bench: Bench, query: str) -> None:
    with bench.client() as client:
        reply = client.get(f"/login{query}")
    assert reply.status_code == 401
    assert "needs its link" in reply.text
    assert "set-cookie" not in reply.headers


def test_two_tokens_in_a_link_are_none(bench: Bench) -> None:
    with bench.client() as client:
        assert client.get(f"/login?token={bench.token}&token=x").status_code == 401


def test_behind_an_encrypting_proxy_the_cookie_stays_encrypted(bench: Bench) -> None:
    app = bench.app(site=Site.of(PORT, ["https://labels.example.org"]))
    with bench.client(app=app) as client:
        headers = {"host": "labels.example.org"}
        reply = client.get(f"/login?token={bench.token}", headers=headers)
        assert "secure" in reply.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        f"https://{HOST}",
        "http://127.0.0.1:1",
        f"http://{HOST}.evil.example",
        "",
    ],
)
def test_another_website_may_neither_read_nor_write(bench: Bench, page: TestClient, origin: str) -> None:
    bench.ask("1")
    for method, path in every_route(bench):
        reply = page.request(method, path, headers={"origin": origin}, json={})
        assert reply.status_code == 403, (method, path)
        assert "access-control-allow-origin" not in reply.headers
    assert bench.store.counts().leased == 0


@pytest.mark.parametrize("origin", [f"http://{HOST}", f"http://localhost:{PORT}", f"HTTP://{HOST}"])
def test_the_page_itself_may_write(bench: Bench, page: TestClient, origin: str) -> None:
    bench.ask("1")
    assert page.post("/api/next", headers={"origin": origin}, json={}).json()["task"] is not None


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", "", f"{HOST}.evil.example", "["],
)
def test_a_name_that_was_pointed_here_afterwards_is_refused(bench: Bench, host: str) -> None:
    with bench.client(bench.token) as client:
        for path in ("/", "/api/me", f"/login?token={bench.token}"):
            assert client.get(path, headers={"host": host}).status_code == 421, path


@pytest.mark.parametrize(
    ("hosts", "takes_addresses", "host", "is_own"),
    [
        ([], False, f"LOCALHOST:{PORT}", True),
        ([], False, f"10.0.0.5:{PORT}", False),
        ([], True, f"10.0.0.5:{PORT}", True),
        ([], True, f"[fe80::1]:{PORT}", True),
        ([], True, "10.0.0.5:1", False),
        ([], True, f"evil.example:{PORT}", False),
        ([], True, f"x@10.0.0.5:{PORT}", False),
        (["microscope"], False, f"microscope:{PORT}", True),
        (["microscope"], False, "microscope", False),
        (["localhost:9000"], False, "localhost:9000", True),
        (["[::1]"], False, f"[::1]:{PORT}", True),
        (["https://labels.example.org/"], False, "labels.example.org", True),
    ],
)
def test_a_site_knows_its_names(hosts: list[str], takes_addresses: bool, host: str, is_own: bool) -> None:
    site = Site.of(PORT, hosts, takes_addresses=takes_addresses)
    assert site.is_own_host(host) == is_own
    if is_own:
        scheme = "https" if site.is_encrypted(host) else "http"
        assert site.is_own_origin(f"{scheme}://{host}", host)
        assert not site.is_own_origin("http://evil.example", host)


@given(st.text(max_size=20) | st.from_regex(r"[0-9a-z.:@\[\]]{1,20}", fullmatch=True))
def test_no_text_is_one_of_our_names_by_accident(host: str) -> None:
    assert not Site.of(PORT, takes_addresses=True).is_own_host(host) or host.endswith(f":{PORT}")


@pytest.mark.parametrize("header", ["host", "origin", "content-type", "authorization"])
def test_a_header_that_is_sent_twice_is_refused(bench: Bench, header: str) -> None:
    right = {
        "host": HOST,
        "origin": f"http://{HOST}",
        "content-type": "application/json",
        "authorization": f"Bearer {bench.token}",
    }
    with bench.client() as client:
        assert client.post("/api/next", headers=right, content="{}").status_code == 200
        twice = [*right.items(), (header, "evil.example")]
        assert client.post("/api/next", headers=twice, content="{}").status_code == 400


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_writing_takes_json_only_so_that_no_form_of_a_website_can(
    bench: Bench, page: TestClient, media_type: str
) -> None:
    for method, path in every_route(bench):
        if method in WRITING:
            reply = page.request(method, path, headers={"content-type": media_type}, content="{}")
            assert reply.status_code == 415, path


def test_every_response_has_its_security_headers(bench: Bench, page: TestClient) -> None:
    for method, path in [*every_route(bench), ("GET", "/nowhere"), ("PUT", "/api/me")]:
        reply = page.request(method, path, json={})
        for name, value in SECURITY_HEADERS.items():
            assert reply.headers[name] == value, (method, path)
        if not path.startswith("/api/picture/"):
            assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers
    policy = page.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_many_wrong_tokens_make_a_client_wait_and_a_forgotten_tab_does_not(bench: Bench) -> None:
    with bench.client() as client:
        for _ in range(50):  # a tab with the token of last week, asking every two seconds
            assert client.get("/api/me", headers={"authorization": "Bearer old"}).status_code == 401
        for number in range(19):
            assert client.get(f"/login?token=guess{number}").status_code == 401
        reply = client.get(f"/login?token={bench.token}")
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) == 60
        assert client.get("/api/me").status_code == 401, "without a token there is nothing to guess"
        bench.time.now_s += 60
        assert client.get(f"/login?token={bench.token}").status_code == 303


def test_guesses_of_many_clients_take_no_memory_without_end() -> None:
    attempts = Attempts(lambda: 0.0)
    for number in range(5000):
        attempts.failed(f"client{number}", "guess")
    assert len(attempts._wrong) == 1000
    for number in range(5000):
        attempts.failed("client", f"guess{number}")
    assert len(attempts._wrong["client"]) == 20
    assert attempts.wait_s("client") == 60


@pytest.mark.parametrize("token", ["x" * 201, "ü" * 20, "a\x7fb", "a b\tc"])
def test_what_cannot_be_a_token_is_not_even_looked_up(bench: Bench, token: str) -> None:
    asked: list[str] = []
    bench.store.annotator_of_token = asked.append  # type: ignore[method-assign, assignment]
    with bench.client() as client:
        assert client.get("/login", params={"token": token}).status_code == 401
    assert asked == []


def test_a_desk_needs_no_plan(bench: Bench) -> None:
    bench.ask("1")
    desk = Desk(store=bench.store, queue=bench.queue, images=bench.images)
    assert desk.context_px == 32
    with bench.client(bench.token, bench.app(plan=None)) as page:
        assert page.get("/api/me").json()["plan"] is None
        assert next_task(page)["items"][0]["channels"][0]["origin"] == [32, 32]
