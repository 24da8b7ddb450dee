"""A certificate authority for one cluster, and kubeconfig files that carry their certificates in them."""

import base64
import datetime
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """The cluster's CA, kept in `folder`: made on first use, read again later."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pair = Pair(folder / "ca.crt", folder / "ca.key")
        if self.pair.certificate.exists():
            key = serialization.load_pem_private_key(self.pair.key.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._key = key
            self._certificate = x509.load_pem_x509_certificate(self.pair.certificate.read_bytes())
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("holdfast-devcluster", ())
        self._certificate = (
            _builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        # The certificate last: it is the sign that the key is whole.
        _write(self.pair.key, _private(self._key))
        _write(self.pair.certificate, self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, common_name: str, organizations: Iterable[str] = (), hosts: Iterable[str] = ()) -> Pair:
        """A certificate for client and server use under `folder/file.{crt,key}`; an existing one is kept."""
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        if pair.certificate.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(
            _name(common_name, organizations), self._certificate.subject, key.public_key()
        ).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        if names := [_host(host) for host in hosts]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write(pair.key, _private(key))
        _write(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return pair

    def service_account_key(self) -> Path:
        """The key that signs service-account tokens; kube-apiserver takes the public half from it."""
        path = self.folder / "service-account.key"
        if not path.exists():
            _write(path, _private(ec.generate_private_key(ec.SECP256R1())))
        return path

    def kubeconfig(self, path: Path, server: str, client: Pair) -> Path:
        """Write a self-contained kubeconfig (JSON, which is YAML) for `client` at `server`."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "holdfast",
            "contexts": [{"name": "holdfast", "context": {"cluster": "holdfast", "user": "holdfast"}}],
            "clusters": [
                {
                    "name": "holdfast",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _base64(self.pair.certificate),
                    },
                }
            ],
            "users": [
                {
                    "name": "holdfast",
                    "user": {
                        "client-certificate-data": _base64(client.certificate),
                        "client-key-data": _base64(client.key),
                    },
                }
            ],
        }
        _write(path, json.dumps(content, indent=2).encode())
        return path


def _name(common_name: str, organizations: Iterable[str]) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
        + [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    # The traditional form: kube-apiserver reads service-account keys in no other.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and readable by nobody else."""
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)
    temporary.write_bytes(content)
    temporary.rename(path)
