"""`kamishibai models pull`: a version from the store of a running server."""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from cli.store_client import StoreClient
from contracts.delivery import Offer, fetch
from contracts.errors import StoreError
from contracts.store import Store, split_name


def pull(model: str, address: str, digest: str | None, api_key: str | None, store: Path) -> None:
    """Raises StoreError for what is not offered or not what it should be, and what the server answers."""
    source, local = StoreClient(address, api_key, option="--from"), Store(store)
    offer = _chosen(model, source.offers(), source.address)
    if digest is not None and digest.lower() != offer.digest:
        raise StoreError(
            f"{source.address} offers {offer.name} with the digest {offer.digest}, not {digest}; not pulled"
        )
    with tqdm(total=offer.bytes, unit="B", unit_scale=True, desc=offer.name, disable=None, leave=False) as bar:
        bundle = fetch(source, offer, local, pinned=digest is not None, on_bytes=bar.update)
    if offer.latest:
        local.follow(offer.model, offer.version, offer.variant)
    click.echo(f"{offer.name}: {offer.bytes / 1e6:.1f} MB, digest {offer.digest}, in {bundle.path}")


def _chosen(model: str, offers: list[Offer], address: str) -> Offer:
    name, version = split_name(model)
    for offer in offers:
        if offer.model == name and (offer.latest if version is None else offer.version == version):
            return offer
    there = ", ".join(offer.name for offer in offers) or "none"
    raise StoreError(f"{address} offers no {model}; there is: {there}")
