"""As much of S3's API as a store of artifacts needs, in memory: objects, and uploads in parts."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, urlsplit


class _Bucket(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]
    uploads: dict[str, dict[int, bytes]]
    numbers: Iterator[int]

    def do_PUT(self) -> None:
        key, query = self._asked()
        body = self._body()
        if "uploadId" in query:
            self.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self.objects[key] = body
        self._answer(200)

    def do_POST(self) -> None:
        key, query = self._asked()
        body = self._body()
        if "delete" in query:
            names = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for named in names:
                self.objects.pop(f"{key.rstrip('/')}/{named}", None)
            gone = "".join(f"<Deleted><Key>{named}</Key></Deleted>" for named in names)
            self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())
            return
        if "uploads" in query:
            number = str(next(self.numbers))
            self.uploads[number] = {}
            name = "InitiateMultipartUploadResult"
        else:
            number = query["uploadId"][0]
            parts = self.uploads.pop(number)
            self.objects[key] = b"".join(parts[one] for one in sorted(parts))
            name = "CompleteMultipartUploadResult"
        tags = f"<Bucket>b</Bucket><Key>{key}</Key><UploadId>{number}</UploadId><ETag>x</ETag>"
        self._answer(200, f"<{name}>{tags}</{name}>".encode())

    def do_GET(self) -> None:
        content = self.objects.get(self._asked()[0])
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        asked = self.headers.get("range", "").removeprefix("bytes=")
        if not asked:
            self._answer(200, content)
            return
        first, last = (int(one) for one in asked.split("-"))
        part = content[first : last + 1]
        self._answer(206, part, f"bytes {first}-{first + len(part) - 1}/{len(content)}")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query, keep_blank_values=True)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _answer(self, status: int, content: bytes = b"", where: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if where:
            self.send_header("Content-Range", where)
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running_bucket() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Its endpoint, and its objects by path."""
    fields = {"objects": {}, "uploads": {}, "numbers": count(1)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bucket", (_Bucket,), fields))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fields["objects"]  # type: ignore[misc]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
