"""Classifiers in every format and precision: what each computes, and that a text's numbers are its own."""

from __future__ import annotations

import pytest
import torch

from contracts.store import Store
from export.checkpoint import import_checkpoint
from export.formats import Wishes

pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["bert", "roberta"])
def bundle(request, tmp_path_factory, write_classifier):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_classifier(folder, request.param)
    store = Store(tmp_path_factory.mktemp("store"))
    return import_checkpoint(folder, store, "tags", wishes=Wishes(formats=ALL, force=True))
