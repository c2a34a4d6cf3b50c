"""What lies between a download and its hub: a private CA, and an HTTP proxy that keeps a log."""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit


def private_ca(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a CA made just now, and a server's context with a certificate of it.

    The certificate is for ``localhost`` and ``127.0.0.1``.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    now, made = datetime.now(timezone.utc), []
    for name, key, is_ca in (("test CA", keys[0], True), ("localhost", keys[1], False)):
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        issuer = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("test CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer),
                critical=False,
            )
        )
        if is_ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        made.append(builder.sign(keys[0], hashes.SHA256()))
    pem = serialization.Encoding.PEM
    ca, own = folder / "ca.pem", folder / "server.pem"
    ca.write_bytes(made[0].public_bytes(pem))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    own.write_bytes(made[1].public_bytes(pem) + keys[1].private_bytes(pem, form, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    return ca, context


class Proxy:
    """An HTTP proxy on loopback, a context manager; ``log`` has a line for each request.

    With ``login`` (``user:password``) it answers 407 without it.
    """

    def __init__(self, login: str = "") -> None:
        self.log: list[str] = []
        proxy = self
        self.wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""

        class Handler(_Relay):
            owner = proxy

        class Server(ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        user = f"{login}@" if login else ""
        self.url = f"http://{user}127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Relay(StreamRequestHandler):
    owner: Proxy

    def handle(self) -> None:
        method, target, version = self.rfile.readline().decode().split()
        headers = []
        while (line := self.rfile.readline()).strip():
            headers.append(line)
        self.owner.log.append(f"{method} {target}")
        sent = {
            name.strip().lower(): v.strip() for name, _, v in (h.partition(b":") for h in headers)
        }
        given = sent.get(b"proxy-authorization", b"").decode()
        if self.owner.wanted and given != self.owner.wanted:
            self.wfile.write(
                b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        with socket.create_connection((parts.hostname or "", parts.port or 80)) as far:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                kept = [h for h in headers if not h.lower().startswith((b"proxy-", b"connection"))]
                lead = f"{method} {path} {version}\r\n".encode()
                far.sendall(lead + b"".join(kept) + b"Connection: close\r\n\r\n")
            back = threading.Thread(target=_pump, args=(far, self.connection), daemon=True)
            back.start()
            if method == "CONNECT":
                _pump(self.connection, far)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until one side ends."""
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for side in (source, target):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
