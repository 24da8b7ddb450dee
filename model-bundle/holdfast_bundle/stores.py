"""Files in an object store: Amazon S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

obstore signs, and our own client asks: obstore would follow a redirect to any address, credentials included, and find
credentials and proxies in places that nobody named. Who a pod says it is comes from the Secret that it was given, else
from an identity that its platform gave it; else it asks as nobody. A signature is for one object and one hour.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from holdfast_bundle import amazon, signatures
from holdfast_bundle.addresses import Reach
from holdfast_bundle.credentials import NOBODY, Credentials
from holdfast_bundle.errors import BundleError
from holdfast_bundle.place import Entry
from holdfast_bundle.uris import Uri, parse
from holdfast_bundle.web import Body, Deadline, Method, Web, addresses_of, read
from holdfast_bundle.webfile import Request, WebFile, asked

_HOUR = timedelta(hours=1)
_MAX_SIGNED_LENGTH = 8192
_MAX_ANSWER_BYTES = 1 << 20
_MAX_PAGE_BYTES = 16 << 20
_MAX_PAGES = 10_000
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_TENANT = re.compile(r"[A-Za-z0-9.-]{1,253}")
_AUTHORITIES = (
    "https://login.microsoftonline.com",
    "https://login.microsoftonline.us",
    "https://login.partner.microsoftonline.cn",
)
_METADATA = parse("http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token")
"""Where a cluster of Google's gives a pod its identity. Asked for that alone, never for content."""
SignedPage = Callable[[str, Mapping[str, str]], str]
"""The bucket's URL and a query, to the signed URL of a list."""


@dataclass(slots=True)
class Bucket:
    """A file or a folder in an object store; what ends in .onnx is a file."""

    uri: Uri
    web: Web
    credentials: Credentials = NOBODY
    _signer: _Signer | None = field(default=None, init=False)

    @property
    def single(self) -> bool:
        return self.uri.path.endswith(".onnx")

    def file(self, name: str = "") -> WebFile:
        uri = self.uri.join(name) if name else self.uri
        signer = self._by()
        return WebFile(uri, self.web, lambda: signer(uri), self.credentials)

    def head(self) -> Body | None:
        """The head of the answer to a request for the object of this very name; None where there is none.

        Raises:
            BundleError: as `get`.
        """
        signer = self._by()
        try:
            with asked(self.uri, lambda: signer(self.uri, "HEAD"), self.web, self.credentials, method="HEAD") as body:
                return body
        except BundleError as error:
            if error.reason == "NotFound":
                return None
            raise

    def put(self, name: str, path: Path) -> None:
        """Write the object `name` of the folder from a file; it appears whole or not at all.

        Raises:
            BundleError: as `get`.
        """
        uri, signer = self.uri.join(name), self._by()
        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        if uri.scheme == "az":
            headers["x-ms-blob-type"] = "BlockBlob"
        with (
            open(path, "rb") as content,
            asked(
                uri,
                lambda: signer(uri, "PUT"),
                self.web,
                self.credentials,
                headers=headers,
                statuses=(200, 201),
                method="PUT",
                content=content,
            ),
        ):
            pass

    def entries(self) -> Iterator[Entry]:
        """All objects of the folder, however deep, by names relative to it. In no certain order.

        Raises:
            BundleError: as `get`; `Invalid` for an answer that is not the list of a store.
        """
        prefix = f"{self.uri.path.removeprefix('/')}/" if self.uri.path else ""
        for key, size, stamp in self._by().listed(self, prefix):
            if (name := key.removeprefix(prefix)) and not name.endswith("/"):
                yield Entry(name, size, stamp)

    def _by(self) -> _Signer:
        if self._signer is None:
            self._signer = _SIGNERS[self.uri.scheme](self.uri, self.web, self.credentials)
        return self._signer


Listed = tuple[str, int, str]
"""Key, size and ETag of an object."""


class _Signer:
    """Makes requests for the objects of one bucket. This one asks as nobody, as for public buckets.

    Attributes:
        base: the bucket's own URL.
    """

    def __init__(self, base: str) -> None:
        self.base = base

    def __call__(self, uri: Uri, method: Method = "GET") -> Request:
        return Request(parse(f"{self.base}{quote(uri.path)}"))

    def page(self, query: Mapping[str, str]) -> Request:
        """A request for a part of what the bucket holds."""
        return Request(parse(f"{self.base}?{urlencode(query, quote_via=quote)}", max_length=_MAX_SIGNED_LENGTH))

    def listed(self, bucket: Bucket, prefix: str) -> Iterator[Listed]:
        """What the bucket holds below a prefix, page by page."""
        dialect = _AZURE if bucket.uri.scheme == "az" else _AMAZON
        marker = ""
        for _ in range(_MAX_PAGES):
            query = dialect.query | {"prefix": prefix} | ({dialect.marker: marker} if marker else {})
            with asked(bucket.uri, partial(self.page, query), bucket.web, bucket.credentials) as body:
                found, marker = dialect.read(bucket.uri, body.all(_MAX_PAGE_BYTES))
            yield from found
            if not marker:
                return
        raise BundleError("Invalid", f"{bucket.uri}: the store's list does not end")


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a store is asked for a list, and where in its XML the parts are."""

    query: dict[str, str]
    marker: str
    item: str
    key: str
    size: str
    stamp: str
    next: str

    def read(self, uri: Uri, answer: bytes) -> tuple[list[Listed], str]:
        """The objects of a page, and the marker of the next one. Raises BundleError `Invalid`."""
        from xml.etree import ElementTree  # a server that fetches by name does without

        try:
            if b"<!DOCTYPE" in answer:  # entities; no store sends them
                raise ValueError
            page = ElementTree.fromstring(answer)  # noqa: S314 - no document type, and of a bounded size
            found = [
                (_text(item, self.key), int(_text(item, self.size)), _text(item, self.stamp))
                for item in page.iterfind(self.item)
            ]
        except (ElementTree.ParseError, ValueError):
            raise BundleError("Invalid", f"{uri}: what answers is no such store: it gave no list of objects") from None
        return found, page.findtext(self.next) or ""


_AMAZON = _Dialect(
    {"list-type": "2", "max-keys": "1000"},
    "continuation-token",
    "{*}Contents",
    "{*}Key",
    "{*}Size",
    "{*}ETag",
    "{*}NextContinuationToken",
)
"""Google's store speaks it too."""
_AZURE = _Dialect(
    {"restype": "container", "comp": "list", "maxresults": "1000"},
    "marker",
    "Blobs/Blob",
    "Name",
    "Properties/Content-Length",
    "Properties/Etag",
    "NextMarker",
)


def _text(item: Any, path: str) -> str:
    text: str | None = item.findtext(path)
    if text is None:
        raise ValueError
    return text


class _Signed(_Signer):
    """Asks by URLs that obstore signs.

    Attributes:
        signed_page: signs the URL of a list with its query. None: obstore has to ask for lists itself.
    """

    def __init__(self, base: str, store: Any, signed_page: SignedPage | None = None) -> None:
        super().__init__(base)
        self._store = store
        self._signed_page = signed_page

    def page(self, query: Mapping[str, str]) -> Request:
        if self._signed_page is None:
            raise RuntimeError("lists come from obstore")
        return Request(parse(self._signed_page(self.base, query), max_length=_MAX_SIGNED_LENGTH))

    def listed(self, bucket: Bucket, prefix: str) -> Iterator[Listed]:
        if self._signed_page is not None:
            yield from super().listed(bucket, prefix)
            return
        import obstore
        from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

        # It connects by itself, so that only the address can be checked that its host has now.
        addresses_of(parse(self.base), bucket.web, Deadline(bucket.web.connect_seconds))
        try:
            for page in obstore.list(self._store, prefix or None, chunk_size=1000):
                yield from ((meta["path"], meta["size"], meta["e_tag"] or str(meta["last_modified"])) for meta in page)
        except NotFoundError:
            raise BundleError("NotFound", f"{bucket.uri}: there is no such bucket") from None
        except (PermissionDeniedError, UnauthenticatedError):
            refused = BundleError("AccessDenied", f"{bucket.uri}: the store refuses to list it")
            raise bucket.credentials.told(refused) from None
        except (BaseError, ValueError, OSError):
            raise BundleError("Unreachable", f"{bucket.uri}: the store does not list it") from None

    def __call__(self, uri: Uri, method: Method = "GET") -> Request:
        import obstore
        from obstore.exceptions import BaseError

        if uri.scheme == "az" and method == "HEAD":
            method = "GET"  # there a signature is for a permission, and obstore knows none for HEAD
        try:
            signed = obstore.sign(self._store, method, uri.path.removeprefix("/"), _HOUR)
        except (BaseError, ValueError, OSError):
            # Its words may hold what the other side echoed.
            raise BundleError("AccessDenied", f"{uri}: no signature can be made for it") from None
        return Request(parse(signed, max_length=_MAX_SIGNED_LENGTH))


class _Bearer(_Signer):
    """Asks by a token of the platform's, got anew before it ends."""

    def __init__(
        self, base: str, token: Callable[[], tuple[str, float]], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(base)
        self._token, self._headers = token, headers or {}
        self._value, self._ends = "", 0.0

    def __call__(self, uri: Uri, method: Method = "GET") -> Request:
        return self._borne(super().__call__(uri))

    def page(self, query: Mapping[str, str]) -> Request:
        return self._borne(super().page(query))

    def _borne(self, request: Request) -> Request:
        if time.monotonic() >= self._ends:
            self._value, seconds = self._token()
            self._ends = time.monotonic() + max(seconds - 300, seconds / 2)
        return replace(request, headers=self._headers, authorization=f"Bearer {self._value}")


def _amazon(uri: Uri, web: Web, credentials: Credentials) -> _Signer:
    variable = credentials.variable
    region = credentials.key("AWS_REGION") or variable("AWS_REGION") or variable("AWS_DEFAULT_REGION") or "us-east-1"
    if not _REGION.fullmatch(region):
        raise credentials.unusable("AWS_REGION", "it is not a region like eu-central-1")
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    endpoint = _endpoint(credentials, "AWS_ENDPOINT_URL", f"https://s3.{region}.{domain}")
    base = f"{endpoint}/{uri.host}"
    config = {"region": region, "endpoint": endpoint}
    if pair := credentials.pair("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        config |= {"access_key_id": pair[0], "secret_access_key": pair[1]}
        token = credentials.key("AWS_SESSION_TOKEN") or ""
        if token:
            config["session_token"] = token
        given = amazon.Keys(*pair, token, datetime.max.replace(tzinfo=UTC))
        keys = amazon.held(lambda: given)
    elif role := variable("AWS_ROLE_ARN"):
        file = variable("AWS_WEB_IDENTITY_TOKEN_FILE")
        config |= {"role_arn": role, "role_session_name": "holdfast", "web_identity_token_file": file}
        keys = amazon.held(lambda: amazon.of_role(role, file, region, domain, web))
    elif agent := variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        if agent not in amazon.AGENTS:
            raise BundleError(
                "AddressRefused", "AWS_CONTAINER_CREDENTIALS_FULL_URI is not the agent of EKS Pod Identity"
            )
        file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        config |= {"container_credentials_full_uri": agent, "container_authorization_token_file": file}
        keys = amazon.held(lambda: amazon.of_agent(agent, file, web))
    else:
        return _Signer(base)

    def signed_page(url: str, query: Mapping[str, str]) -> str:
        held = keys()
        return signatures.amazon(url, query, (held.id, held.secret), held.token, region, datetime.now(UTC))

    return _Signed(base, _store("S3Store", uri, config, credentials), signed_page)


def _google(uri: Uri, web: Web, credentials: Credentials) -> _Signer:
    name = "service-account.json"
    endpoint = "https://storage.googleapis.com"
    if text := credentials.key(name):
        try:
            endpoint = json.loads(text).get("gcs_base_url", endpoint)
        except (ValueError, AttributeError):
            raise credentials.unusable(name, "it is not a service account's key as JSON") from None
        base = f"{_checked(credentials, name, endpoint)}/{uri.host}"
        return _Signed(base, _store("GCSStore", uri, {"service_account_key": text}, credentials))
    base = f"{endpoint}/{uri.host}"
    if not credentials.service_account:
        return _Signer(base)
    return _Bearer(base, lambda: _google_token(web))


def _google_token(web: Web) -> tuple[str, float]:
    """(token, seconds that it holds) of the pod's own identity."""
    agent = ip_address(_METADATA.host)
    web = replace(web, policy=lambda address: Reach.PRIVATE if address == agent else Reach.REFUSED, total_seconds=30)
    return _token(read(_METADATA, web, _MAX_ANSWER_BYTES, headers={"Metadata-Flavor": "Google"}))


def _azure(uri: Uri, web: Web, credentials: Credentials) -> _Signer:
    account = credentials.key("AZURE_STORAGE_ACCOUNT")
    if account is None:
        raise BundleError("SecretNotFound", f"{uri}: a Secret has to name the account, as AZURE_STORAGE_ACCOUNT")
    if not _ACCOUNT.fullmatch(account):
        raise credentials.unusable("AZURE_STORAGE_ACCOUNT", "it is not the name of a storage account")
    usual = f"https://{account}.blob.core.windows.net"
    endpoint = _endpoint(credentials, "AZURE_STORAGE_ENDPOINT", usual)
    base = f"{endpoint}/{uri.host}"
    if secret := credentials.key("AZURE_STORAGE_KEY"):
        config = {"account_name": account, "account_key": secret, "endpoint": endpoint}

        def signed_page(url: str, query: Mapping[str, str]) -> str:
            try:
                grant = signatures.azure(uri.host, account, secret, datetime.now(UTC))
            except ValueError as error:
                raise credentials.unusable("AZURE_STORAGE_KEY", f"it is {error}") from None
            return f"{url}?{urlencode({**query, **grant}, quote_via=quote)}"

        return _Signed(base, _store("AzureStore", uri, config, credentials), signed_page)
    # A token says who we are to whoever holds it, so it goes to no place but Azure's own.
    if credentials.variable("AZURE_FEDERATED_TOKEN_FILE") and endpoint == usual:
        return _Bearer(base, lambda: _azure_token(web, credentials), {"x-ms-version": "2023-11-03"})
    return _Signer(base)


def _azure_token(web: Web, credentials: Credentials) -> tuple[str, float]:
    """(token, seconds that it holds) for the ServiceAccount's token."""
    variable = credentials.variable
    authority = variable("AZURE_AUTHORITY_HOST").rstrip("/") or _AUTHORITIES[0]
    tenant = variable("AZURE_TENANT_ID")
    if authority not in _AUTHORITIES or not _TENANT.fullmatch(tenant):
        raise BundleError("AddressRefused", "AZURE_AUTHORITY_HOST and AZURE_TENANT_ID do not lead to Microsoft Entra")
    try:
        assertion = Path(variable("AZURE_FEDERATED_TOKEN_FILE")).read_text()
    except (OSError, ValueError) as error:
        raise BundleError("AccessDenied", "the ServiceAccount's token cannot be read") from error
    form = {
        "client_id": variable("AZURE_CLIENT_ID"),
        "scope": "https://storage.azure.com/.default",
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    uri = parse(f"{authority}/{tenant}/oauth2/v2.0/token")
    return _token(read(uri, web, _MAX_ANSWER_BYTES, headers=headers, form=urlencode(form).encode()))


_SIGNERS: Mapping[str, Callable[[Uri, Web, Credentials], _Signer]] = {"s3": _amazon, "gs": _google, "az": _azure}


def _token(answer: bytes) -> tuple[str, float]:
    try:
        said = json.loads(answer)
        return str(said["access_token"]), float(said.get("expires_in", 60))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError("AccessDenied", "the platform gave the ServiceAccount no token") from None


def _endpoint(credentials: Credentials, key: str, usual: str) -> str:
    given = credentials.key(key)
    return usual if given is None else _checked(credentials, key, given)


def _checked(credentials: Credentials, key: str, endpoint: object) -> str:
    """An endpoint without a slash at its end. Its address is checked when it is connected to."""
    try:
        parsed = parse(str(endpoint))
    except BundleError as error:
        raise credentials.unusable(key, error.message) from None
    if parsed.scheme not in ("http", "https") or parsed.query:
        raise credentials.unusable(key, "an endpoint is http(s)://HOST")
    return str(endpoint).rstrip("/")


def _store(kind: str, uri: Uri, config: Mapping[str, str], credentials: Credentials) -> Any:
    """A store of obstore's, to sign by. It opens connections only to get a platform's credentials."""
    try:
        from obstore import store
        from obstore.exceptions import BaseError
    except ImportError:
        raise BundleError("Invalid", f"{uri}: reading {uri.scheme}:// needs obstore, which is not installed") from None
    retries = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}
    options = {"allow_http": True, "connect_timeout": "10s", "timeout": "30s", "user_agent": "holdfast"}
    try:
        return getattr(store, kind)(uri.host, config=config, client_options=options, retry_config=retries)
    except (BaseError, ValueError):
        if credentials.secret:
            words = f"the keys of Secret {credentials.secret} are not of the right form"
            raise BundleError("SecretInvalid", f"{uri}: {words}") from None
        raise BundleError("AccessDenied", f"{uri}: the identity of the pod cannot be used") from None
