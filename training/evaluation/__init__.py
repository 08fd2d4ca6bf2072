"""How good generated texts are, held against the texts of the training: dumps in, a report with figures out.

May import contracts, models, training.data and torch; matplotlib, scipy and sentence-transformers only inside the
functions that need them, since they are in the extra `evaluate`.
"""
