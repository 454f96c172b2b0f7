"""One web page over HTTP, for text only: never an address of this machine or of its local network.

A name is resolved once; the addresses found are checked, and the connection goes to one of these very addresses
(TLS still verifies the name). Redirects are followed by hand and go through the same check.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tramontane.errors import DataError

if TYPE_CHECKING:
    import httpx

MAX_PAGE_BYTES = 32 << 20
MAX_REDIRECTS = 5
READ_TIMEOUT_S = 15.0

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_INNER_IPV6 = [ipaddress.IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
# What `is_global` lets pass: protocol assignments (Oracle's metadata among them), relays of 6to4, and the one public
# address that is inside every machine of Azure's, where it hands out certificates and settings.
_INNER_IPV4 = [ipaddress.IPv4Network(n) for n in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


@dataclass(frozen=True, slots=True)
class Page:
    url: str  # after redirects
    data: bytes
    content_type: str
    charset: str | None


def fetch(url: str, *, allow_private: bool = False) -> Page:
    """The body behind `url`, at most MAX_PAGE_BYTES. Raises DataError, without naming the URL, saying what is wrong."""
    import httpx

    if any(c in url for c in "\\\t\r\n\0"):
        raise DataError("a backslash or control character has no place in an address")
    try:
        target = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = fetch_once(target, allow_private=allow_private)
            if isinstance(answer, Page):
                return answer
            target = target.join(answer)
    except httpx.InvalidURL as error:
        raise DataError(f"not an address: {error}") from None
    except httpx.HTTPError as error:
        raise DataError(f"could not be fetched: {error or type(error).__name__}") from None
    raise DataError(f"redirected more than {MAX_REDIRECTS} times")


def fetch_once(url: httpx.URL, *, allow_private: bool) -> Page | str:
    """The page, or the place a redirect points to."""
    import httpx

    if url.scheme not in ("http", "https") or not url.host:
        raise DataError(f"leads to {url.scheme or 'no'}://; only http and https are read")
    if url.userinfo:
        raise DataError("an address with a user name or password is not fetched")
    name = url.raw_host.decode("ascii")
    port = url.port or (443 if url.scheme == "https" else 80)
    error: Exception | None = None
    for address in resolve(name, port, allow_private=allow_private):
        # no proxies or cookies from the environment: the address checked must be the address dialled
        with httpx.Client(verify=ssl.create_default_context(), trust_env=False, timeout=READ_TIMEOUT_S) as client:
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "tramontane"},
                extensions={"sni_hostname": name},
            )
            try:
                response = client.send(request, stream=True)
            except httpx.ConnectError as failure:
                error = failure
                continue
            return read_response(response, url)
    raise DataError(f"could not be reached: {error}")


def read_response(response: httpx.Response, url: httpx.URL) -> Page | str:
    if response.has_redirect_location:
        return response.headers["Location"]
    if response.status_code != 200:
        raise DataError(f"the server answered {response.status_code} {response.reason_phrase}".rstrip())
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise DataError("the server sends it compressed although asked not to; download it first")
    body = bytearray()
    for chunk in response.iter_raw(65536):
        body += chunk
        if len(body) > MAX_PAGE_BYTES:
            raise DataError(f"larger than {MAX_PAGE_BYTES >> 20} MiB; download it first")
    content_type = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    return Page(str(url), bytes(body), content_type, response.charset_encoding)


def resolve(name: str, port: int, *, allow_private: bool) -> list[str]:
    """Every address of `name`. Raises DataError if it has none, or if one of them is not public."""
    try:
        found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DataError(f"{name} has no address ({error})") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private:
        for address in addresses:
            if not is_public(address):
                which = name if name.strip("[]") == address else f"{name} ({address})"
                raise DataError(f"{which} is inside this machine or its network; --allow-private permits it")
    return addresses


def is_public(address: str) -> bool:
    """Whether an address is out in the internet: not loopback, private, link-local, shared, multicast, reserved or a
    cloud's own, in IPv4 or wrapped into IPv6 (IANA special-purpose address registries, RFC 6890)."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        return ip in _GLOBAL_UNICAST and not any(ip in network for network in _INNER_IPV6)
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _INNER_IPV4)
