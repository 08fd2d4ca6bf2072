"""The three small runs of `kamishibai demo`: each on data made here; about a minute on two cores, all together."""

from __future__ import annotations

from pathlib import Path

from training.dcgan import DcganRecipe, train_dcgan
from training.demo_corpus import write_synopses
from training.demo_faces import draw_faces
from training.gpt2 import Gpt2Recipe, train_gpt2
from training.lstm import LstmRecipe, train_lstm

SYNOPSES = 900
HELD_OUT_SYNOPSES = 60
FACES = 2048
FACE_PIXELS = 32

LSTM = LstmRecipe(layers=(192,), rows=16, chunk_tokens=32, steps=2200, learning_rate=1e-2)
GPT2 = Gpt2Recipe(vocabulary_size=1536, layers=3, steps=400, learning_rate=4e-3)
# Faster than the paper's settings; the average over about 50 steps takes out the noise that this speed leaves.
DCGAN = DcganRecipe(latent=64, width=24, batch=32, steps=900, learning_rate=1e-3, real_target=0.9, ema_decay=0.98)


def train_demo_runs(folder: Path, *, show_progress: bool = True) -> dict[str, Path]:
    """Train the demo's models into folders of these names; the run folder of each name.

    Raises StoreError where one of the folders exists already.
    """
    synopses = write_synopses(SYNOPSES)
    corpus = "".join(synopsis + "\n" for synopsis in synopses)
    held_out = "".join(synopsis + "\n" for synopsis in write_synopses(HELD_OUT_SYNOPSES, seed=1))
    prompt = "In the year"
    return {
        "synopses-lstm": train_lstm(
            corpus,
            folder / "synopses-lstm",
            LSTM,
            example_prompt=prompt,
            held_out=held_out,
            show_progress=show_progress,
        ),
        "synopses-gpt2": train_gpt2(
            synopses,
            folder / "synopses-gpt2",
            GPT2,
            example_prompt=prompt,
            held_out=held_out,
            show_progress=show_progress,
        ),
        "faces": train_dcgan(draw_faces(FACES, FACE_PIXELS), folder / "faces", DCGAN, show_progress=show_progress),
    }
