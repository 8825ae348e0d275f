"""TLS of a server's ports: a certificate of its own and, if clients are to show theirs, who signs them."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hanbit.common.errors import ConfigError


@dataclass(frozen=True)
class Tls:
    """PEM files. `client_ca`: clients must have a certificate that it has signed (mTLS)."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @property
    def is_on(self) -> bool:
        return self.certificate is not None

    @property
    def asks_clients(self) -> bool:
        return self.client_ca is not None

    def check(self) -> None:
        """Raises ConfigError, also for a certificate that is no certificate or not of the key."""
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--ssl-certfile and --ssl-keyfile go together: give both")
        if self.client_ca is not None and self.certificate is None:
            raise ConfigError("--ssl-ca-certs asks clients for certificates over TLS: give --ssl-certfile, too")
        if self.certificate is None or self.key is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as problem:  # ssl's errors are OSErrors
            raise ConfigError(
                f"--ssl-certfile {self.certificate} and --ssl-keyfile {self.key} are no certificate and its key, "
                f"in PEM and without a password: {problem}"
            ) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as problem:
                raise ConfigError(f"--ssl-ca-certs {self.client_ca} has no certificates in PEM: {problem}") from None

    def of_http(self) -> dict[str, Any]:
        """What uvicorn is told."""
        if not self.is_on:
            return {}
        reads = ssl.CERT_REQUIRED if self.asks_clients else ssl.CERT_NONE
        client_ca = None if self.client_ca is None else str(self.client_ca)
        return {
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.key),
            "ssl_ca_certs": client_ca,
            "ssl_cert_reqs": reads,
        }

    def of_grpc(self) -> grpc.ServerCredentials | None:
        if self.certificate is None or self.key is None:
            return None
        client_ca = None if self.client_ca is None else self.client_ca.read_bytes()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=self.asks_clients)


def _no_password() -> str:
    raise ValueError("the key has a password")
