"""The page as a real server: sockets, signals, and several people at once."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from controller.core.errors import ConfigurationError
from controller.web.serve import LabelServer
from tests.web.support import Bench, submission

#: A server of its own process, as ``stedfast label`` runs one. It says where it is, and that it ended well.
ALONE = """
import sys, time
from pathlib import Path
from controller.labels.queue import LabelQueue
from controller.labels.store import LabelStore
from controller.web.desk import Desk
from controller.web.serve import LabelServer
from tests.web.support import DrawnImages

store = LabelStore.open(Path(sys.argv[1]))
server = LabelServer(Desk(store=store, queue=LabelQueue(store, time.time), images=DrawnImages()))
print(server.port, flush=True)
server.run()
store.close()
print("ended", flush=True)
"""


@pytest.fixture
def server(bench: Bench) -> Iterator[LabelServer]:
    made = LabelServer(bench.desk())
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join(20)
    assert not thread.is_alive()


def ask(port: int, token: str, path: str, content: Any = None) -> tuple[int, Any]:
    """Return status and content of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        method, body = ("GET", None) if content is None else ("POST", json.dumps(content))
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        assert reply.getheader("server") is None, "versions are nobody's business"
        return reply.status, json.loads(reply.read() or b"null")
    finally:
        connection.close()


def head(token: str, port: int, length: int, path: str = "/api/answer") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_it_listens_on_this_machine_only_and_says_where(bench: Bench, server: LabelServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert server.port > 0
    status, me = ask(server.port, bench.token, "/api/me")
    assert (status, me["annotator"]["name"]) == (200, "ada")
    assert server.link("t") == f"{server.url}/login?token=t"


def test_small_responses_are_sent_at_once(bench: Bench, server: LabelServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    took_s = []
    for _ in range(20):  # a body that waits for an acknowledgement waits 40 ms, each time
        begin_s = time.perf_counter()
        connection.request("GET", "/static/page.js", headers={"authorization": f"Bearer {bench.token}"})
        connection.getresponse().read()
        took_s.append(time.perf_counter() - begin_s)
    connection.close()
    assert min(took_s) < 0.03


def test_several_people_at_once_get_every_question_once(bench: Bench, server: LabelServer) -> None:
    for number in range(12):
        bench.ask(str(number))
    tokens = [bench.store.new_token(bench.store.add_annotator(f"person {number}")) for number in range(4)]

    def work(token: str) -> list[str]:
        done: list[str] = []
        while True:
            _, reply = ask(server.port, token, "/api/next", {})
            if reply["task"] is None:
                return done
            lease = reply["task"]["lease"]["id"]
            status, answer = ask(server.port, token, "/api/answer", submission(lease, key=lease))
            assert (status, answer["is_kept"]) == (200, True)
            done.append(reply["task"]["request"]["id"])

    with ThreadPoolExecutor(4) as people:
        done = [request for found in people.map(work, tokens) for request in found]
    assert sorted(done) == sorted(request.id for request in bench.store.requests())


def test_of_two_answers_to_one_question_at_once_one_counts(bench: Bench, server: LabelServer) -> None:
    bench.ask("1")
    lease = ask(server.port, bench.token, "/api/next", {})[1]["task"]["lease"]["id"]
    with ThreadPoolExecutor(4) as tabs:
        replies = list(
            tabs.map(
                lambda key: ask(server.port, bench.token, "/api/answer", submission(lease, key=key)), "abcd"
            )
        )
    assert [status for status, _ in replies] == [200] * 4
    assert sorted(answer["is_kept"] for _, answer in replies) == [False, False, False, True]
    assert len(bench.store.answers(kept_only=False)) == 4
    assert len(bench.store.answers()) == 1


def test_a_large_message_is_refused_while_it_is_still_on_its_way(bench: Bench, server: LabelServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(head(bench.token, server.port, 10_000_000) + b"x" * 1000)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert ask(server.port, bench.token, "/api/me")[0] == 200


def test_half_a_message_stores_nothing_and_keeps_nobody_waiting(bench: Bench, server: LabelServer) -> None:
    bench.ask("1")
    lease = ask(server.port, bench.token, "/api/next", {})[1]["task"]["lease"]["id"]
    body = json.dumps(submission(lease)).encode()
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(head(bench.token, server.port, len(body)) + body[:-5])
        assert ask(server.port, bench.token, "/api/me")[0] == 200
    assert ask(server.port, bench.token, "/api/me")[0] == 200
    assert bench.store.answers(kept_only=False) == []


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /api/answer HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_page_goes_on(
    bench: Bench, server: LabelServer, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(sent)
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
    assert ask(server.port, bench.token, "/api/me")[0] == 200


def test_no_websocket_is_opened(bench: Bench, server: LabelServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(
            f"GET /api/me HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_a_port_that_is_taken_is_said_so(bench: Bench, server: LabelServer) -> None:
    with pytest.raises(ConfigurationError, match=f"{server.port}: .*0 for a free one"):
        LabelServer(bench.desk(), port=server.port)
    with pytest.raises(ConfigurationError, match="0 to 65535"):
        LabelServer(bench.desk(), port=70_000)
    with pytest.raises(ConfigurationError, match="cannot listen"):
        LabelServer(bench.desk(), host="192.0.2.1")  # an address that no machine has


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_an_answer_that_is_under_way_be_stored_first(
    bench: Bench, number: signal.Signals
) -> None:
    bench.time.now_s = 4e9  # the other process has the real time; no lease ends before it
    bench.ask("1")
    lease = bench.queue.claim(bench.expert)
    assert lease is not None
    body = json.dumps(submission(lease.id)).encode()
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", ALONE, str(bench.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        ask(port, "", f"/api/me?token={bench.token}")
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            connection.sendall(head(bench.token, port, len(body)) + body[:10])
            ask(port, bench.token, "/api/me")  # by now the server has begun to read the other one
            process.send_signal(number)
            wait_until_closed(port)
            connection.sendall(body[10:])
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (0, "ended\n"), err
    assert [answer.key for answer in bench.store.answers()] == ["k1"]
    assert bench.token not in err


def wait_until_closed(port: int) -> None:
    """Return once nobody listens there any more."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 20).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it was closing just then
            continue


def test_requests_are_not_logged_with_their_tokens(
    bench: Bench, server: LabelServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", f"/login?token={bench.token}")
    assert connection.getresponse().status == 303
    connection.close()
    assert bench.token not in caplog.text
