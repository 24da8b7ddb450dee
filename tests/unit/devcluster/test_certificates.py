import base64
import json
from pathlib import Path

from cryptography import x509

from holdfast_devcluster.certificates import Authority


def test_a_certificate_is_signed_by_the_authority_for_its_user_groups_and_hosts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("node", "system:node:one", ["system:nodes"], hosts=["one", "198.18.0.1"])
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pair.certificate.read_bytes()))
    assert certificate.subject.rfc4514_string() == "CN=system:node:one,O=system:nodes"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["one"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["198.18.0.1"]


def test_a_second_authority_over_the_same_folder_is_the_same(tmp_path: Path) -> None:
    first = Authority(tmp_path).issue("admin", "admin").certificate.read_bytes()
    again = Authority(tmp_path)
    assert again.issue("admin", "admin").certificate.read_bytes() == first
    other = x509.load_pem_x509_certificate(again.issue("other", "other").certificate.read_bytes())
    other.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes()))


def test_keys_and_kubeconfigs_are_readable_by_nobody_else(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("admin", "admin")
    kubeconfig = authority.kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:6443", pair)
    for file in (authority.pair.key, pair.key, authority.service_account_key(), kubeconfig):
        assert file.stat().st_mode & 0o077 == 0


def test_a_kubeconfig_needs_no_other_file(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("admin", "admin")
    content = json.loads(authority.kubeconfig(tmp_path / "k", "https://127.0.0.1:6443", pair).read_text())
    user = content["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == pair.key.read_bytes()
    assert str(tmp_path) not in json.dumps(content)
