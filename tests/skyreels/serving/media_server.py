"""Files over HTTPS on loopback, with a certificate of its own, and every way in which such a server may misbehave."""

import datetime
import ipaddress
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class MediaServer:
    """What it holds by path, and the paths that were asked for."""

    port: int
    trusted: ssl.SSLContext
    certificate: Path
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def url(self, path, host="localhost"):
        return f"https://{host}:{self.port}/{path}"


@contextmanager
def media_server(folder):
    """It runs in threads, until the block ends."""
    certificate = signed_by_itself(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    trusted = ssl.create_default_context(cafile=str(certificate))
    server.held = MediaServer(server.server_address[1], trusted, certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def signed_by_itself(folder):
    """Key and certificate of localhost, 127.0.0.1 and media.example in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName(host) for host in ("localhost", "media.example")]
    names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "server.pem"
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + built.public_bytes(pem))
    return path


class _Handler(BaseHTTPRequestHandler):
    """`/endless` never ends, `/drip` sends a byte now and then, `/slow-head` does so in its headers, `/packed` zips."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        held, path = self.server.held, self.path.lstrip("/").partition("?")[0]
        held.seen.append(path)
        if path in held.redirects:
            self._answer(302, b"", Location=held.redirects[path])
        elif path == "packed":
            self._answer(200, b"x", **{"Content-Encoding": "gzip"})
        elif path in ("endless", "drip", "slow-head"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"\r\n" * (path != "slow-head"))
            self._go_on(bytes(1 << 16) if path == "endless" else b"x", 0.0 if path == "endless" else 0.05)
        elif path in held.files:
            self._answer(200, held.files[path])
        else:
            self._answer(404, b"")

    def _go_on(self, piece, pause):
        """Until the other side has enough."""
        self.close_connection = True
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                self.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            pass

    def _answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
