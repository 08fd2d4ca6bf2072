"""Genres of plots: multilabel classifiers, their baseline, and what is measured of both."""
