"""The report as `report.json` holds it: every number that figures and page are made from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Measure = Literal["jaccard", "embedding"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setting(BaseModel):
    """How texts were drawn. `top_p` is None where it was off, which 1 says too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    top_p: Annotated[float, Field(gt=0, le=1), AfterValidator(lambda value: value if value < 1 else None)] | None = None

    @property
    def label(self) -> str:
        return f"temperature {self.temperature:g}, " + ("no top-p" if self.top_p is None else f"top-p {self.top_p:g}")


class Histogram(_Frozen):
    """Counts between edges, of which there is one more."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]


class Distribution(_Frozen):
    """Of one number per text."""

    count: Annotated[int, Field(ge=1)]
    mean: float
    standard_deviation: float
    lowest: float
    percentile_5: float
    percentile_25: float
    median: float
    percentile_75: float
    percentile_95: float
    highest: float
    histogram: Histogram


class Uniqueness(_Frozen):
    """Case and white space make no difference."""

    total: Count
    distinct: Count  # of all
    known: Count  # of the distinct ones, those that the training has too

    @property
    def distinct_share(self) -> float:
        return self.distinct / self.total if self.total else 0.0

    @property
    def new_share(self) -> float:
        return 1 - self.known / self.distinct if self.distinct else 0.0


class Diversity(_Frozen):
    """Of a sample of texts, at most `diversity.MOST_TEXTS`; None where there are too few words."""

    texts: Count
    distinct_1: Share | None
    distinct_2: Share | None
    distinct_3: Share | None
    self_bleu: Share | None


class SettingReport(_Frozen):
    """One setting of one source. What is of texts is of those that could be read; None: there were none."""

    source: str
    setting: Setting
    lines: Count
    texts: Count  # lines of which the text could be read, broken or not
    broken: Count  # lines with any fault
    faults: dict[str, Count]  # lines by kind of fault; one line can have several
    words: Distribution | None
    highest: dict[Measure, Distribution]  # similarity to the most similar training text
    copies: Count  # texts that are in the training, but for case and white space
    texts_uniqueness: Uniqueness
    primary_titles: Uniqueness
    secondary_titles: Uniqueness
    diversity: Diversity

    @property
    def broken_share(self) -> float:
        return self.broken / self.lines if self.lines else 0.0


class GenreSimilarity(_Frozen):
    """`means[i][j]`: the mean similarity of all pairs of a text of genre i and a training text of genre j."""

    generated: tuple[str, ...]
    training: tuple[str, ...]
    means: tuple[tuple[float, ...], ...]


class Neighbour(_Frozen):
    """A training text."""

    title: str
    genres: tuple[str, ...]
    text: str


class Example(_Frozen):
    """A generated text and the training text that is most similar to it; None: it shares no word with any."""

    source: str
    setting: Setting
    place: str
    genre: str | None
    title: str | None
    text: str
    similarity: float
    nearest: Neighbour | None


class Perplexity(_Frozen):
    """How well a model of the store predicts a text that it was not trained on."""

    model: str  # name@version
    variant: str
    tokens: Annotated[int, Field(ge=1)]  # that were predicted
    characters: Annotated[int, Field(ge=1)]
    nats_per_token: float
    perplexity: float
    nats_per_character: float


class Training(_Frozen):
    file: str
    texts: Annotated[int, Field(ge=1)]


class Report(_Frozen):
    schema_version: Literal[1] = 1
    training: Training
    encoder: str | None
    settings: Annotated[tuple[SettingReport, ...], Field(min_length=1)]
    highest: dict[Measure, Distribution]  # of the texts of all settings
    genres: dict[Measure, GenreSimilarity]
    most_similar: dict[Measure, tuple[Example, ...]]
    least_similar: dict[Measure, tuple[Example, ...]]
    perplexity: Perplexity | None = None
