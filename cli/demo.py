"""`kamishibai demo`: train the demo models and export them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from contracts.store import Store
from export.run import export_run
from training.demo import train_demo_runs

NOTICE = """\
These four are small: made on this machine in a minute or two, to try the product with. To serve real ones:
  kamishibai import hf FOLDER --name gpt2          a GPT-2 checkpoint from Hugging Face
  kamishibai import tfjs FOLDER --corpus TEXT ...  a TensorFlow.js character LSTM
  kamishibai import hf FOLDER --name tags          a BERT or RoBERTa that tags texts
  kamishibai export RUN --name NAME                a training run of your own"""


def make_demo_models(store: Path) -> None:
    click.echo(f"Training four small demo models into {store}; this takes one to two minutes.")
    with tempfile.TemporaryDirectory(prefix="kamishibai-demo-") as folder:
        for name, run in train_demo_runs(Path(folder)).items():
            export_run(run, Store(store), name)
    click.echo(NOTICE)
