"""Certificates for tests, and a Secret as the kubelet mounts it."""

from __future__ import annotations

import os
import shutil
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes
    ends: datetime


class Authority:
    """Issues certificates."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        name: str = "wine",
        usage: x509.ObjectIdentifier | tuple[x509.ObjectIdentifier, ...] = SERVER,
        days: float = 7,
        key: PrivateKey | None = None,
        password: bytes | None = None,
    ) -> Identity:
        """For 127.0.0.1 and `name`; with negative `days` it has expired."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = (
            _builder(subject, self._name, key, timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage if isinstance(usage, tuple) else (usage,)), critical=False)
        )
        made = builder.sign(self._key, hashes.SHA256())
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        return Identity(
            made.public_bytes(pem),
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked),
            made.not_valid_after_utc,
        )


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, life: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + life)
    )


class Secret:
    """A Secret's files as the kubelet lays and changes them: all at once, by a link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir(parents=True)

    def put(self, **files: bytes) -> None:
        """The whole content, by file name with `_` for the dot."""
        self._versions += 1
        data = self.folder / f"..v{self._versions}"
        data.mkdir()
        names = {name.replace("_", "."): content for name, content in files.items()}
        for name, content in names.items():
            (data / name).write_bytes(content)
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        old = self.folder / f"..v{self._versions - 1}"
        os.rename(link, self.folder / "..data")
        for name in names:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for left in self.folder.iterdir():
            if not left.name.startswith("..") and left.name not in names:
                left.unlink()
        if old.is_dir():
            shutil.rmtree(old)

    def put_identity(self, identity: Identity, authority: Authority | None = None) -> None:
        files = {"tls_crt": identity.certificate, "tls_key": identity.key}
        self.put(**files, **({"ca_crt": authority.certificate} if authority else {}))


def trust(authority: Authority, identity: Identity | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """A client's context: whom it trusts, and what it shows of itself (by way of files in `folder`)."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if identity is not None:
        assert folder is not None
        file = folder / f"client-{id(identity)}.pem"
        file.write_bytes(identity.certificate + identity.key)
        context.load_cert_chain(file)
    return context
