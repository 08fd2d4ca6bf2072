"""Synopses written by a small grammar: training text for the demo that needs no download.

Every synopsis follows one hero through an opening, a meeting, a trouble, a turn and an ending; all words are our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Name, then the pronouns: she, her (object), her (possessive).
_HEROES = (
    *((name, "she", "her", "her") for name in ("Akari", "Hana", "Mio", "Sayuri", "Rin", "Yuki", "Chiyo", "Nozomi")),
    *((name, "he", "him", "his") for name in ("Kaito", "Ren", "Haruto", "Sora", "Takumi", "Daichi", "Itsuki", "Jin")),
)
_FRIENDS = ("Aoi", "Botan", "Emi", "Fumio", "Goro", "Kohaku", "Midori", "Natsuki", "Shiro", "Tomoe", "Wataru", "Yoru")
_ROLES = (
    "pilot", "samurai", "witch", "detective", "violinist", "courier", "inventor", "shrine keeper", "student",
    "shinigami", "cook", "bounty hunter", "painter", "doctor", "swimmer", "librarian", "mechanic",
)  # fmt: skip
_TRAITS = ("quiet", "stubborn", "clumsy", "fearless", "lonely", "cheerful", "gifted", "penniless", "young", "retired")
_PLACES = (
    "the floating city of Asahi", "the harbour town of Minato", "the desert colony of Kagero", "Tokyo",
    "the snowbound village of Yukimura", "the capital", "the moon base Tsukuyomi", "the island town of Hoshigaoka",
    "the old castle town", "a small fishing village", "the underground city of Kurogane", "the academy of Seiran",
)  # fmt: skip
_POWERS = (
    "the Crimson Order", "a council of machines", "the Ashen Empire", "the Moonlit Guild", "a forgotten dragon",
    "the Clockwork Church", "the pirate queen", "the House of Cranes", "an army of puppets", "the Winter Court",
)  # fmt: skip
_TREASURES = (
    "the cursed sword", "the broken music box", "the last star map", "the letter without a sender", "the silver mask",
    "the sleeping robot", "the egg of glass", "the key to the sea gate", "the book that writes itself", "the paper fox",
)  # fmt: skip
_WISHES = (
    "to win the national tournament", "to find a missing brother", "to open a small noodle shop", "to see the ocean",
    "to live an ordinary life", "to repay an old debt", "to become the greatest hero in the land", "to be forgiven",
)  # fmt: skip
_WONDERS = ("ghosts", "magic", "fate", "talking animals", "other worlds", "dragons", "time travel", "gods")
_SEASONS = ("spring", "summer", "autumn", "winter")
_COSTS = (
    "every spell costs one memory", "nobody who enters may ever leave", "the truth was hidden on purpose",
    "the war was started by a lie", "time is running out", "the enemy has a familiar face",
    "each victory brings the winter closer", "someone among them is a traitor",
)  # fmt: skip

_OPENINGS = (
    "In the year {year}, {home} is ruled by {power}. {Hero}, a {trait} {role}, dreams of only one thing: {wish}.",
    "In the year {year}, a {trait} {role} named {Hero} wakes up in {home} without any memory of the past.",
    "{Hero} is a {trait} {role} who lives in {home} and wants nothing more than {wish}.",
    "{Hero} never believed in {wonder}. That changes one {season} night, when the {trait} {role} finds {treasure}.",
    "During the war against {power}, a {trait} {role} named {Hero} is sent to {home}.",
    "Every {season}, {power} comes to {home} and takes one child away. This time it is the turn of {Hero}, "
    "a {trait} {role}.",
    "A {trait} {role} named {Hero} arrives in {home} with {treasure} and a secret that nobody may know.",
    "Long ago, {power} stole {treasure} from {home}. Now {Hero}, a {trait} {role}, has sworn to bring it back.",
)
_MEETINGS = (
    "On the road {he} meets {Friend}, a {friend_trait} {friend_role} who claims to know {his} future.",
    "There {he} is saved by {Friend}, a {friend_trait} {friend_role} with a strange sense of humour.",
    "With the help of {Friend}, a {friend_trait} {friend_role}, {he} begins to search for the truth.",
    "Everything changes when {Friend}, a {friend_trait} {friend_role}, asks {him} for help.",
    "{His} only friend is {Friend}, a {friend_trait} {friend_role} who believes in {wonder}.",
)
_TROUBLES = (
    "But {power} is watching, and {cost}.",
    "Together they must cross {place} and find {treasure} before {power} does.",
    "Soon {he} learns that {cost}, and that {power} will stop at nothing.",
    "When {power} attacks {place}, the two are forced to fight side by side.",
    "However, {treasure} is stolen, and all signs point to {power}.",
)
_TURNS = (
    "As the days grow colder, {Hero} discovers that {Friend} once served {power}.",
    "While {Friend} hides a painful past, {Hero} must decide whom to trust.",
    "The closer they come to {place}, the stranger {his} dreams become.",
    "Then {treasure} begins to speak, and {Hero} understands what it was made for.",
)
_ENDINGS = (
    "Will {he} find the courage to go on, or will {home} be lost forever?",
    "This is the story of {Hero} and {Friend}, and of a promise made under the {season} sky.",
    "To protect what {he} loves, {Hero} must give up the one thing {he} always wanted: {wish}.",
    "In the end, only {Hero} can choose between {Friend} and the world.",
    "And so begins a journey that will change {home} for all time.",
)


def write_synopses(count: int, seed: int = 0) -> list[str]:
    """Synopses of about 430 characters, each on one line; equal for equal arguments."""
    random = np.random.default_rng(seed)
    return [_synopsis(random) for _ in range(count)]


def _synopsis(random: np.random.Generator) -> str:
    parts = [_OPENINGS, _MEETINGS, _TROUBLES, _ENDINGS]
    if random.uniform() < 0.5:
        parts.insert(3, _TURNS)
    slots = _slots(random)
    return " ".join(_choose(random, part).format(**slots) for part in parts)


def _slots(random: np.random.Generator) -> dict[str, str]:
    name, he, him, his = _HEROES[random.integers(len(_HEROES))]
    return {
        "Hero": name,
        "he": he,
        "him": him,
        "his": his,
        "His": his.capitalize(),
        "trait": _choose(random, _TRAITS),
        "role": _choose(random, _ROLES),
        "Friend": _choose(random, _FRIENDS),
        "friend_trait": _choose(random, _TRAITS),
        "friend_role": _choose(random, _ROLES),
        "year": str(random.integers(1850, 2400)),
        "home": _choose(random, _PLACES),
        "place": _choose(random, _PLACES),
        "power": _choose(random, _POWERS),
        "treasure": _choose(random, _TREASURES),
        "wish": _choose(random, _WISHES),
        "wonder": _choose(random, _WONDERS),
        "season": _choose(random, _SEASONS),
        "cost": _choose(random, _COSTS),
    }


def _choose(random: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(random.integers(len(options)))]
