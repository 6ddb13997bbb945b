"""A small web server in a thread: ranges, validators, redirects, and every way to fail that a test asks for."""

import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 64 * 1024


@dataclass
class Shelf:
    """What lies at one path, and how it is served."""

    data: bytes = b""
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    sized: bool = True
    kind: str = "application/octet-stream"
    headers: dict = field(default_factory=dict)
    redirect: str = ""
    statuses: list = field(default_factory=list)  # answered first, one a request
    cut: list = field(default_factory=list)  # the body ends after so many bytes, one a request
    stall: list = field(default_factory=list)  # it hangs after so many bytes, one a request
    bytes_per_s: float = 0.0
    needs_token: str = ""


class Web:
    """The server; `shelves` by path, `asked` every request as (method, path, headers)."""

    def __init__(self):
        self.shelves = {}
        self.asked = []
        self.served = {}
        self.stopping = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                web.answer(self, body=True)

            def do_HEAD(self):
                web.answer(self, body=False)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # of clients that hung up
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def put(self, path, data=b"", **how):
        self.shelves[path] = Shelf(data, **how)
        return self.url + path

    def put_json(self, path, data):
        return self.put(path, json.dumps(data).encode(), kind="application/json")

    def requests(self, path, method="GET"):
        return [headers for how, where, headers in self.asked if (how, where) == (method, path)]

    def answer(self, request, *, body):
        path = request.path.partition("?")[0]
        headers = {name.title(): value for name, value in request.headers.items()}
        self.asked.append((request.command, path, headers))
        shelf = self.shelves.get(path)
        if shelf is None:
            return self._say(request, 404)
        if shelf.statuses and (status := shelf.statuses.pop(0)):
            return self._say(request, status, shelf.headers)
        if shelf.needs_token and headers.get("Authorization") != f"Bearer {shelf.needs_token}":
            return self._say(request, 401, shelf.headers)
        if shelf.redirect:
            return self._say(request, 302, {"Location": shelf.redirect, **shelf.headers})
        return self._serve(request, shelf, path, body)

    def _say(self, request, status, headers=None):
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _serve(self, request, shelf, path, body):
        start = self._start(request, shelf)
        if start and start >= len(shelf.data):
            return self._say(request, 416, {"Content-Range": f"bytes */{len(shelf.data)}"})
        request.send_response(206 if start else 200)
        facts = {
            "ETag": shelf.etag,
            "Last-Modified": shelf.modified,
            "Content-Type": shelf.kind,
            **shelf.headers,
        }
        if start:
            facts["Content-Range"] = f"bytes {start}-{len(shelf.data) - 1}/{len(shelf.data)}"
        facts |= {"Content-Length": str(len(shelf.data) - start)} if shelf.sized else {"Connection": "close"}
        for name, value in facts.items():
            if value:
                request.send_header(name, value)
        request.end_headers()
        if body:
            self._send(request, shelf, path, start)
        request.close_connection = request.close_connection or not shelf.sized
        return None

    def _start(self, request, shelf):
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        fresh = request.headers.get("If-Range") in (None, shelf.etag or shelf.modified)
        return int(asked[1]) if asked and fresh and shelf.ranges else 0

    def _send(self, request, shelf, path, start):
        cut = shelf.cut.pop(0) if shelf.cut else None
        stall = shelf.stall.pop(0) if shelf.stall else None
        limit = next((n for n in (cut, stall) if n is not None), len(shelf.data))
        begun = time.monotonic()
        try:
            for at in range(start, min(limit, len(shelf.data)), PIECE):
                piece = shelf.data[at : min(at + PIECE, limit)]
                request.wfile.write(piece)
                self.served[path] = self.served.get(path, 0) + len(piece)
                if shelf.bytes_per_s:
                    ahead = (at + len(piece) - start) / shelf.bytes_per_s - (time.monotonic() - begun)
                    self.stopping.wait(max(0.0, ahead))
            if stall is not None:
                self.stopping.wait(20)
        except OSError:
            pass
        if cut is not None or stall is not None:
            request.close_connection = True
