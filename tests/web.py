"""A web server on 127.0.0.1 whose pages misbehave in the ways that servers of data sets do."""

import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What one path answers.

    body: the file; etag, date: its validators; kind: content type.
    ranges: whether Range is honoured; if_range: whether If-Range is.
    stops: bytes of body after which the first, second... answer breaks off.
    answers: (status, headers, body) of the first, second... answer, before the file comes.
    length: whether Content-Length is sent (otherwise the end of the connection is the end).
    chunked: whether the body comes in chunks of announced sizes, instead of Content-Length.
    rate: bytes per second; 0 for as fast as possible. headers: extra ones.
    """

    body: bytes = b""
    etag: str = '"one"'
    date: str = ""
    kind: str = "application/octet-stream"
    ranges: bool = True
    if_range: bool = True
    stops: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    length: bool = True
    chunked: bool = False
    rate: float = 0
    headers: dict = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(1, 7, 16384)  # SO_SNDBUF: little is under way when a client dies

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        web = self.server.web
        page = web.pages.get(self.path) or web.pages.get(self.path.split("?")[0])
        web.log.append((self.command, self.path, self.headers))
        if page is None:
            self.plain(404, {}, b"no such page")
        elif page.answers:
            self.plain(*page.answers.pop(0))
        else:
            self.file(page)

    def plain(self, status, headers, body):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def file(self, page):
        start = self.range_start(page)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        facts = {"Content-Type": page.kind, "ETag": page.etag, "Last-Modified": page.date, **page.headers}
        for key, value in facts.items():
            if value:
                self.send_header(key, value)
        if page.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif page.length:
            self.send_header("Content-Length", str(len(page.body) - start))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "GET":
            end = page.stops.pop(0) if page.stops else len(page.body)
            self.close_connection = self.close_connection or end < len(page.body)
            self.send(page, page.body[start:end])
            if page.chunked and not self.close_connection:
                self.wfile.write(b"0\r\n\r\n")

    def range_start(self, page):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        validator = self.headers.get("If-Range")
        if not asked or not page.ranges:
            return 0
        if page.if_range and validator and validator not in (page.etag, page.date):
            return 0
        return int(asked[1])

    def send(self, page, data):
        web, step = self.server.web, 8192
        try:
            for at in range(0, len(data), step):
                piece = data[at : at + step]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if page.chunked else piece)
                web.sent += len(data[at : at + step])
                if page.rate:
                    time.sleep(step / page.rate)
        except OSError:
            self.close_connection = True


class Web:
    """The server; `pages` by path, `log` of requests, `sent` bytes of bodies."""

    def __init__(self):
        self.pages, self.log, self.sent = {}, [], 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.web = self
        self.server.handle_error = lambda *_: None  # a client that was killed
        self.root = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def url(self, path):
        return self.root + path
