"""The learning-rate finder proposes a rate that learns."""

from __future__ import annotations

from tests.training.conftest import SMALL, objective_of
from training.learning_rate import HIGHEST, LOWEST, find_learning_rate


def test_the_proposed_rate_learns_more_than_one_ten_times_lower_and_higher_ones_do_harm(tmp_path):
    recipe = SMALL["packed"].model_copy(update={"schedule": "constant"})
    figure = tmp_path / "learning-rate.png"
    found = find_learning_rate(objective_of(recipe), figure, device="cpu", show_progress=False)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert found.rates == sorted(found.rates)
    assert LOWEST <= found.rates[0] <= found.proposed < found.rates[-1] <= HIGHEST
    at = found.rates.index(found.proposed)
    assert found.losses[at] < found.losses[0]  # it had begun to fall there
    assert 1e-4 < found.proposed < 1e-1


def test_the_same_recipe_gets_the_same_proposal():
    first, second = (
        find_learning_rate(objective_of(SMALL["rows"]), device="cpu", show_progress=False) for _ in range(2)
    )
    assert first == second
