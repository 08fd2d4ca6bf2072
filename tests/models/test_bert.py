"""BERT and RoBERTa compute what transformers computes."""

import pytest
import torch
import transformers

from contracts.store import Store
from export.huggingface import import_classifier
from models.bert import BertConfig, RobertaConfig
from models.weights import fitting_weights, read_config
from models.runtimes.pytorch import load_classifier

CPU = torch.device("cpu")
