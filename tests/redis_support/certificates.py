"""An authority and certificates of it, made on the fly, and the TLS of a server that asks for them."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from redis_support.servers import HOST


class Certificates:
    """PEM files in a directory: an authority, a client's certificate and key, and a strange authority."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self._server = self._authority.issue_cert(HOST, "localhost")
        client = self._authority.issue_cert("client@promenade.test")
        self.authority = directory / "authority.pem"
        self.client_certificate = directory / "client.pem"
        self.client_key = directory / "client.key"
        self.strange_authority = directory / "strange.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))
        trustme.CA().cert_pem.write_to_path(str(self.strange_authority))
        client.private_key_pem.write_to_path(str(self.client_key))
        for index, blob in enumerate(client.cert_chain_pems):
            blob.write_to_path(str(self.client_certificate), append=index > 0)

    def server_context(
        self, *, ask_for_client: bool = False, server_name: str | None = None
    ) -> ssl.SSLContext:
        """For ``FaultProxy(tls=...)``. ``server_name`` makes a certificate for that name only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = (
            0  # redis-py's synchronous client takes tickets for replies that nobody asked for
        )
        certificate = self._authority.issue_cert(server_name) if server_name else self._server
        certificate.configure_cert(context)
        if ask_for_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._authority.configure_trust(context)
        return context
