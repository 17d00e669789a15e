"""Which URLs and addresses may be asked."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.collect.web.addresses import (
    CheckedResolver,
    Refused,
    checked_url,
    encoded,
    is_public,
)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.8",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "::ffff:0:10.0.0.1",
        "::fffe:10.0.0.1",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:127.0.0.1",
        "2001:0:808:808::1",  # Teredo
        "100::1",
        "4000::1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_of_the_public_internet(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "198.20.0.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_changes_nothing(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    wrapped = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80),
        ipaddress.IPv6Address(0xFFFF << 48 | number),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("2606:4700::5efe:0:0")) | number),
    ]
    assert {is_public(one) for one in wrapped} == {is_public(address)}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.com/a.jpg", "expected http or https, found 'ftp'"),
        ("file:///etc/passwd", "found 'file'"),
        ("//example.com/a.jpg", "no scheme"),
        ("a.jpg", "no scheme"),
        ("javascript:alert(1)", "found 'javascript'"),
        ("http://user:secret@example.com/a.jpg", "user and password"),
        ("http://example.com@127.0.0.1/", "user and password"),
        ("http://", "no host"),
        ("http:///a.jpg", "no host"),
        ("http://example.com:99999/", "malformed"),
        ("http://[::1", "malformed"),
        ("http://[1.2.3.4]/", "malformed|not an IPv6"),
        ("http://exa mple.com/", "not a host name"),
        ("http://example.com\\@127.0.0.1/", "user and password"),
        ("http://127.0.0.1/", "not a public address"),
        ("http://[::ffff:127.0.0.1]/", "not a public address"),
        ("http://[fe80::1%25eth0]/", "not a public address|not an IPv6"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://example.com/" + "a" * 9000, "at most 8000"),
        ("http://a\0b/", "not a host name|malformed"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        checked_url(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTP://Example.COM/A.jpg", "http://example.com/A.jpg"),
        ("https://example.com:8443/a,b c.jpg", "https://example.com:8443/a,b%20c.jpg"),
        (
            "http://example.com/bäume.jpg?q=ö&s=1+2",
            "http://example.com/b%C3%A4ume.jpg?q=%C3%B6&s=1+2",
        ),
        ("http://example.com/a%20b%2Fc.jpg", "http://example.com/a%20b%2Fc.jpg"),
        ("http://example.com/100%.jpg", "http://example.com/100%25.jpg"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://example.com/a#part", "http://example.com/a"),
        ("http://example.com/\0..//x", "http://example.com/%00..//x"),
        ("http://1.1.1.1/a?sig=a%2Bb%3D", "http://1.1.1.1/a?sig=a%2Bb%3D"),
    ],
)
def test_what_is_asked_for(url: str, asked: str) -> None:
    assert str(checked_url(url, allow_private=False)) == asked


def test_private_addresses_when_allowed() -> None:
    assert str(checked_url("http://127.0.0.1:80/x", allow_private=True)) == "http://127.0.0.1/x"


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_is_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://example.com/{text}"):
        try:
            asked = checked_url(url, allow_private=False)
        except Refused:
            continue
        assert asked.scheme in ("http", "https")
        assert str(asked).isascii()
        assert not set(str(asked)) & set(" \r\n\t\0\x7f")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_encoding_twice_is_encoding_once(text: str) -> None:
    assert encoded(encoded(text)) == encoded(text)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1"])
def test_other_spellings_of_loopback_do_not_pass_the_resolver(host: str) -> None:
    resolver = CheckedResolver(allow_private=False)
    with pytest.raises((Refused, OSError)) as caught:
        asyncio.run(resolver.resolve(host, 80))
    if isinstance(caught.value, Refused):
        assert "not a public address" in str(caught.value)


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def both(*_: object, **__: object) -> list[tuple]:
        return [(2, 1, 6, "", ("8.8.8.8", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]

    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both, raising=False)
        await CheckedResolver(allow_private=False).resolve("rebind.example", 80)

    with pytest.raises(Refused, match=r"10\.0\.0\.1"):
        asyncio.run(ask())
