"""The mathematics: modules (LSTM, GPT-2, DCGAN, BERT), sampling and noise; `models.runtimes` runs one bundle variant.

May import: contracts, torch, numpy. Never redis, never Flask.
"""

from models.processor import ask_for_steady_products

ask_for_steady_products()  # before the first product of this process
