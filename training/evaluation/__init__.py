"""How good generated texts and pictures are, held against those of the training: a report with figures.

May import contracts, models, the rest of training and torch; matplotlib, scipy and sentence-transformers only inside
the functions that need them, since they are in the extra `evaluate`.
"""
