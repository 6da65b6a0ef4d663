"""A server between us and the real one that answers some calls with an error of its own."""

import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
KEPT = ("content-type", "etag", "last-modified", "content-range", "accept-ranges")


@contextmanager
def failing(endpoint, fails, status=500, reaches=False):
    """(address, counts) of a proxy to `endpoint`; where `fails()` a call is answered with `status`.

    Whether it `reaches` the endpoint before is another matter.
    """
    counts, client = Counter(), httpx.Client(base_url=endpoint, timeout=30)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def any(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0)) or b"".join(self.chunks())
            counts["all"] += 1
            failed = fails()
            if not failed or reaches:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
                answer = client.request(self.command, self.path, content=body, headers=headers)
            if failed:
                counts["failed"] += 1
                return self.reply(status, {"content-type": "application/xml"}, ERROR, len(ERROR))
            told = {name: value for name, value in answer.headers.items() if name.lower() in KEPT}
            length = answer.headers.get("content-length", len(answer.content))
            return self.reply(answer.status_code, told, answer.content, length)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = any

        def chunks(self):
            while self.headers.get("transfer-encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                yield self.rfile.read(size)
                self.rfile.readline()

        def reply(self, code, headers, body, length):
            self.send_response(code)
            for name, value in {**headers, "content-length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", counts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        client.close()
