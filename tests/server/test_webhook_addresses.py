"""The guard of webhooks: what no URL and no answer of a resolver can make us connect to."""

from __future__ import annotations

import ipaddress
import random
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest
from contracts.settings import Settings
from server.webhook_addresses import AddressRefused, WebhookAddresses, is_public

# What IANA's registries of special-purpose addresses, and the multicast ranges, keep from the internet at large.
SPECIAL_4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
]
SPECIAL_6 = [
    "::/128",
    "::1/128",
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001:db8::/32",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:82b::200e", "64:ff9b::1.1.1.1"]


def inside(networks):
    """Addresses of these networks."""
    return st.sampled_from(networks).map(ipaddress.ip_network).flatmap(lambda each: st.ip_addresses(network=each))


def wrapped(address):
    """The ways in which an IPv6 address can hold an IPv4 one."""
    number = int(address)
    teredo = (0x20010000 << 96) | (number ^ 0xFFFFFFFF)
    forms = (0xFFFF << 32 | number, 0x0064FF9B << 96 | number, 0x2002 << 112 | number << 80, teredo, number)
    return [ipaddress.IPv6Address(form) for form in forms]


@given(inside(SPECIAL_4))
def test_no_special_ipv4_address_is_public_in_any_form(address):
    assert not is_public(address)
    assert [each for each in wrapped(address) if is_public(each)] == []


@given(inside(SPECIAL_6))
def test_no_special_ipv6_address_is_public(address):
    assert not is_public(address)


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_outside_of_the_unicast_of_the_internet_is_not_public(address):
    nat64 = address in ipaddress.ip_network("64:ff9b::/96")
    mapped = address in ipaddress.ip_network("::ffff:0:0/96")
    if not nat64 and not mapped and address not in ipaddress.ip_network("2000::/3"):
        assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def guard(**settings):
    return WebhookAddresses(Settings(**settings))


def resolving(monkeypatch, *addresses):
    """The resolver answers with these, and counts how often it is asked."""
    asked = []

    def getaddrinfo(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


BAD = [
    "",
    "hooks.example",
    "//hooks.example/",
    "ftp://hooks.example/",
    "file:///etc/passwd",
    "http://hooks.example/",
    "https://",
    "https:///path",
    "https://user:password@hooks.example/",
    "https://hooks.example@evil.example/",
    "https://hooks.example:0/",
    "https://hooks.example:65536/",
    "https://hooks.example:port/",
    "https://hooks example/",
    "https://hooks.example/a b",
    "https://hooks.example/\r\nHost: other",
    "https://hooks.example/\0",
    "https://h\u00f6\u00f6ks.example/",
    "https://hooks.example\\@evil.example/",
    "https://hooks..example/",
    "https://[::1",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fe80::1%25eth0]/",
    "https://[64:ff9b::7f00:1]/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://2130706433/",
    "https://0/",
    "https://10.0.0.1:8443/",
    "https://169.254.169.254/latest/meta-data/",
    "https://192.168.1.1./",
]


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_cannot_be_a_webhook_is_refused_at_once(url, monkeypatch):
    asked = resolving(monkeypatch, "1.1.1.1")
    with pytest.raises(InvalidRequest, match="'webhook' is") as caught:
        guard().check(url)
    assert caught.value.param == "webhook"
    with pytest.raises(AddressRefused):
        guard().resolve(url)
    assert asked == []


@given(st.text(max_size=60) | st.text(max_size=40).map("https://{}".format))
def test_any_text_is_a_url_or_refused(text):
    with suppress(InvalidRequest):
        guard().check(text)


@pytest.mark.parametrize(
    ("url", "header", "target"),
    [
        ("https://hooks.example", "hooks.example", "/"),
        ("https://hooks.example:443/a?b=c#d", "hooks.example", "/a?b=c"),
        ("https://Hooks.Example:8443/a%20b", "hooks.example:8443", "/a%20b"),
        ("https://hooks.example?x", "hooks.example", "/?x"),
        ("https://1.1.1.1/", "1.1.1.1", "/"),
        ("https://[2606:4700:4700::1111]:8443/", "[2606:4700:4700::1111]:8443", "/"),
    ],
)
def test_a_url_is_taken_apart_as_it_is_sent(monkeypatch, url, header, target):
    resolving(monkeypatch, "1.1.1.1")
    guard().check(url)
    found = guard().resolve(url)
    assert (found.secure, found.host_header, found.target) == (True, header, target)


def test_one_private_address_among_public_ones_refuses_the_host(monkeypatch):
    for answer in (["1.1.1.1", "127.0.0.1"], ["10.0.0.1", "1.1.1.1"], ["1.1.1.1", "8.8.8.8", "::ffff:10.0.0.1"]):
        resolving(monkeypatch, *answer)
        with pytest.raises(AddressRefused, match="which is not public"):
            guard().resolve("https://hooks.example/")


def test_the_resolver_is_asked_once_and_its_answer_is_what_is_connected_to(monkeypatch):
    addresses = random.Random(1).sample(PUBLIC, 3)
    asked = resolving(monkeypatch, *addresses, addresses[0])
    assert guard().resolve("https://hooks.example/").addresses == tuple(addresses)
    assert asked == ["hooks.example"]


def test_a_host_that_is_not_found_may_be_found_later():
    with pytest.raises(OSError, match=r"."):
        guard().resolve("https://nowhere.invalid/")
    with pytest.raises(AddressRefused):
        guard().resolve(f"https://{'a' * 64}.example/")


def test_settings_name_the_hosts_that_webhooks_may_go_to(monkeypatch):
    resolving(monkeypatch, "1.1.1.1")
    chosen = guard(webhook_hosts="hooks.example, Other.Example.")
    for url in ("https://hooks.example/", "https://HOOKS.example.:8443/", "https://other.example/"):
        assert chosen.resolve(url).addresses == ("1.1.1.1",)
    for url in ("https://a.hooks.example/", "https://hooks.example.evil.example/", "https://1.1.1.1/"):
        with pytest.raises(AddressRefused, match="not among those"):
            chosen.resolve(url)
    resolving(monkeypatch, "10.0.0.1")
    with pytest.raises(AddressRefused, match="not public"):
        chosen.resolve("https://hooks.example/")


def test_settings_open_the_way_to_closed_networks():
    with pytest.raises(InvalidRequest, match="must begin with https://"):
        guard(webhook_private="on").check("http://127.0.0.1/")
    with pytest.raises(InvalidRequest, match="not public"):
        guard(webhook_http="on").check("http://127.0.0.1/")
    both = guard(webhook_private="on", webhook_http="on")
    both.check("http://localhost:9000/a")
    assert both.resolve("http://127.0.0.1:9000/a").addresses == ("127.0.0.1",)
    assert not both.resolve("http://127.0.0.1:9000/a").secure
