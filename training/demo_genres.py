"""Genres of the demo's synopses: each is told by words of it, any number of them by those of one text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.genres.data import GenreData, LabelledPlots

# Of the words that demo_corpus fills its sentences with.
WORDS: dict[str, tuple[str, ...]] = {
    "Fantasy": (
        "witch",
        "dragon",
        "magic",
        "talking animals",
        "Moonlit Guild",
        "egg of glass",
        "spell",
        "Winter Court",
    ),
    "Science Fiction": (
        "pilot",
        "inventor",
        "machines",
        "moon base",
        "desert colony",
        "robot",
        "star map",
        "time travel",
    ),
    "Supernatural": ("shinigami", "ghosts", "gods", "shrine keeper", "other worlds", "writes itself", "paper fox"),
    "Action": ("samurai", "bounty hunter", "the war", "pirate queen", "army of puppets", "fight side by side"),
    "Mystery": ("detective", "memory", "letter without a sender", "hidden on purpose", "traitor", "familiar face"),
    "Slice of Life": ("student", "cook", "librarian", "noodle shop", "ordinary life", "fishing village"),
    "Music": ("violinist", "music box"),
    "Sports": ("swimmer", "national tournament"),
}


def genres_of(synopsis: str) -> tuple[str, ...]:
    return tuple(genre for genre, words in WORDS.items() if any(word in synopsis for word in words))


def label_synopses(train: Sequence[str], validation: Sequence[str]) -> GenreData:
    return GenreData(tuple(WORDS), _labelled(train), _labelled(validation), {}, {})


def _labelled(synopses: Sequence[str]) -> LabelledPlots:
    truth = [[genre in genres_of(synopsis) for genre in WORDS] for synopsis in synopses]
    return LabelledPlots(list(synopses), np.array(truth, dtype=np.bool_))
