"""The local web server of the page: bound to this machine, it serves one session and no paths."""

from __future__ import annotations

import json
import re
import secrets
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from statefilm.experiments.prefer.pairs import MEDIA_TYPES
from statefilm.experiments.prefer.session import SIDES, Session

HOST = "127.0.0.1"
MAX_BODY = 10_000
POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)


def make_server(session: Session, port: int = 0) -> ThreadingHTTPServer:
    """A server of a session's page on 127.0.0.1; `serve_forever` runs it.

    Args:
        port: 0 takes a free one; `server_port` tells which.

    Raises:
        OSError: the port is taken.
    """
    handler = partial(_Handler, session, secrets.token_urlsafe(12))
    server = ThreadingHTTPServer((HOST, port), handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """`/` the page, `/state`, `/pair/N`, `/media/TOKEN/N/SIDE`, and POST `/choice`.

    The token, new in each run, keeps a browser's cache of another run from being shown, and other
    sites, which cannot read the page, from making choices.
    """

    server_version, sys_version = "statefilm", ""
    protocol_version = "HTTP/1.1"

    def __init__(self, session: Session, token: str, *args: Any) -> None:
        self.session, self.token = session, token
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer one request for the page or a part of it."""
        if not self._is_local():
            return
        if self.path == "/":
            page = files(__package__).joinpath("page.html").read_text("utf-8")
            page = page.replace("TOKEN", self.token)
            return self._send(page.encode(), "text/html; charset=utf-8")
        if self.path == "/state":
            return self._json(self.session.state())
        if found := re.fullmatch(r"/pair/(\d{1,9})", self.path):
            return self._try(lambda: self.session.shown(self._index(found[1])))
        sides = "|".join(SIDES)
        if found := re.fullmatch(rf"/media/{self.token}/(\d{{1,9}})/({sides})", self.path):
            return self._media(int(found[1]), found[2])
        self._error(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        """Take one choice; the answer is the new state."""
        if not self._is_local():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            return self._error(HTTPStatus.BAD_REQUEST, "the body is missing or too long")
        body = self.rfile.read(int(length))
        if self.path != "/choice":
            return self._error(HTTPStatus.NOT_FOUND, "no such page")
        self._try(lambda: self._choose(body))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on stderr."""

    def _choose(self, body: bytes) -> dict[str, Any]:
        content = json.loads(body)
        if not isinstance(content, dict) or content.get("token") != self.token:
            raise ValueError("the choice does not come from this run's page: load the page again")
        index, answer, seconds = (content.get(key) for key in ("index", "answer", "seconds"))
        if type(index) is not int or not isinstance(answer, str):
            raise ValueError("a choice has index, answer and seconds")
        if not isinstance(seconds, int | float):
            raise ValueError(f"seconds {seconds!r} is not a number")
        self.session.answer(index, answer, float(seconds))
        return self.session.state()

    def _index(self, text: str) -> int:
        self.session.check(int(text))
        return int(text)

    def _is_local(self) -> bool:
        """Refuse requests that a foreign name led here (DNS rebinding)."""
        name = self.headers.get("Host", "").rpartition(":")[0]
        if name in (HOST, "localhost"):
            return True
        self._error(HTTPStatus.FORBIDDEN, f"only for {HOST}")
        return False

    def _media(self, index: int, side: str) -> None:
        if index >= len(self.session.pairs):
            return self._error(HTTPStatus.NOT_FOUND, "no such pair")
        file = self.session.pairs[index].file(side)
        try:
            content = file.read_bytes()
        except OSError:
            return self._error(HTTPStatus.NOT_FOUND, "the file is gone")
        self._send(content, MEDIA_TYPES[file.suffix.lower()], cache="private, max-age=3600")

    def _try(self, make: Any) -> None:
        try:
            content = make()
        except (ValueError, OverflowError) as error:
            return self._error(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:  # a full disk
            return self._error(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"the choice could not be kept: {error}"
            )
        self._json(content)

    def _error(self, status: HTTPStatus, message: str) -> None:
        self._json({"error": message}, status)

    def _json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(
        self,
        content: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        cache: str = "no-store",
    ) -> None:
        """Send content, or the part of it that the request's Range names (Safari's videos)."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        total, start, end = len(content), 0, len(content) - 1
        if wanted and status == HTTPStatus.OK and int(wanted[1]) < total:
            start, end = int(wanted[1]), min(int(wanted[2] or end), end)
            status = HTTPStatus.PARTIAL_CONTENT
        self.send_response(status)
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        part = content[start : end + 1]
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(part)),
            "Cache-Control": cache,
            "Accept-Ranges": "bytes",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # browsers leave a video's rest where it is
            self.end_headers()
            self.wfile.write(part)
