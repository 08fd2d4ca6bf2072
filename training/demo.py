"""The four small runs of `kamishibai demo`: each on data made here; about a minute on two cores, all together."""

from __future__ import annotations

from pathlib import Path

from training.dcgan_trainer import DcganTrainer
from training.demo_corpus import write_synopses
from training.demo_faces import draw_faces
from training.demo_genres import label_synopses
from training.genres.beginning import read_beginning
from training.genres.encoder import GenresObjective, genres_objective
from training.gpt2 import gpt2_objective
from training.lstm import char_objective
from training.pictures import CachedPictures
from training.recipes import SCRATCH, CharLstmRecipe, DcganRecipe, GenresRecipe, Gpt2Recipe
from training.run_folder import RunFolder
from training.texts import Texts
from training.trainer import Trainer

SYNOPSES = 900
HELD_OUT_SYNOPSES = 60
FACES = 2048
EXAMPLE_PROMPT = "In the year"

LSTM = CharLstmRecipe(
    layers=(192,),
    layout="rows",
    batch_rows=16,
    chunk_tokens=32,
    epochs=3,
    optimizer="adam",
    learning_rate=1e-2,
    schedule="one-cycle",
)
GPT2 = Gpt2Recipe(
    model=SCRATCH,
    vocabulary_size=1536,
    context_tokens=256,
    width=128,
    blocks=3,
    heads=4,
    layout="packed",
    block_tokens=256,
    batch_rows=4,
    epochs=5,
    learning_rate=4e-3,
    weight_decay=0.01,
    schedule="one-cycle",
    dropout=0.0,
)
GENRES = GenresRecipe(
    model=SCRATCH,
    vocabulary_size=1024,
    width=64,
    blocks=1,
    block_tokens=160,
    cycles=1,
    layer_decay=1.0,
    batch_rows=16,
    epochs=4,
    learning_rate=3e-3,
    largest_weight=1.0,
    dropout=0.0,
)
# Faster than the paper's settings; the average over about 50 steps takes out the noise that this speed leaves.
DCGAN = DcganRecipe(
    size=32,
    latent=64,
    width=24,
    batch_pictures=32,
    epochs=14,
    learning_rate=1e-3,
    real_target=0.9,
    ema_decay=0.98,
    measure_epochs=0,
)


def demo_genres_objective(synopses: Texts) -> GenresObjective:
    data = label_synopses(synopses.train, synopses.validation)
    return genres_objective(data, GENRES, read_beginning(data, GENRES), report=False)


def train_demo_runs(folder: Path, *, show_progress: bool = True) -> dict[str, Path]:
    """Train the demo's models into folders of these names; the run folder of each name.

    Raises StoreError where one of the folders exists already.
    """
    held_out = write_synopses(HELD_OUT_SYNOPSES, seed=1)
    synopses = Texts(write_synopses(SYNOPSES), held_out, example_prompt=EXAMPLE_PROMPT)
    for name, objective in (
        ("synopses-lstm", char_objective(synopses, LSTM)),
        ("synopses-gpt2", gpt2_objective(synopses, GPT2)),
        ("genres", demo_genres_objective(synopses)),
    ):
        Trainer(objective, RunFolder(folder / name), device="cpu", show_progress=show_progress, logs=False).run()
    faces = CachedPictures(draw_faces(FACES, DCGAN.size))
    DcganTrainer(faces, DCGAN, RunFolder(folder / "faces"), device="cpu", show_progress=show_progress, logs=False).run()
    return {name: folder / name for name in ("synopses-lstm", "synopses-gpt2", "genres", "faces")}
