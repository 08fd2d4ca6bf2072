"""The mathematics: modules (LSTM, GPT-2, DCGAN, BERT), sampling and noise; `models.runtimes` runs one bundle variant.

May import: contracts, torch, numpy. Never redis, never Flask.
"""
