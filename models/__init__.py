"""The mathematics: modules (LSTM, GPT-2, DCGAN, BERT), sampling and noise; `models.runtimes` runs one bundle variant.

May import: contracts, torch, numpy. Never redis, never Flask.
"""

import os

# The library that PyTorch multiplies with on Intel's processors takes its kernel by the number of rows, and on some of
# them a row's last bits with it. Its strict reproducibility gives a row the same bits among any number of rows; it is
# read at the first product of a process. docs/log.md has what it costs.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
