"""What a transformer has to beat: words and word pairs by TF-IDF, a logistic regression for each genre."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from contracts.errors import StoreError
from training.genres.data import GenreData
from training.genres.scores import Probabilities

MOST_WORDS = 60_000
_STRENGTH = 10.0  # inverse of the regularisation; of 1, 2, 4 and 10 this was best, and its probabilities are honest


def require_baseline() -> None:
    """Before hours of training. Raises StoreError where scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise StoreError("the baseline needs scikit-learn; install it with: pip install 'kamishibai[evaluate]'")


def baseline(data: GenreData, seed: int = 42) -> Probabilities:
    """Trained on the plots to train on; probabilities (texts, genres) of those to validate with.

    Raises StoreError where scikit-learn is missing.
    """
    require_baseline()
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=MOST_WORDS, sublinear_tf=True)
    train, validation = words.fit_transform(data.train.texts), words.transform(data.validation.texts)
    columns = []
    for truth in data.train.truth.T:
        if truth.all() or not truth.any():  # nothing to tell apart
            columns.append(np.full(len(data.validation.texts), float(truth.all())))
            continue
        model = LogisticRegression(C=_STRENGTH, solver="liblinear", random_state=seed)
        columns.append(model.fit(train, truth).predict_proba(validation)[:, 1])
    return np.stack(columns, axis=1)
