"""The stepwise LSTM equals PyTorch's, and the windowed backend equals the definition written in numpy."""

import numpy as np
import pytest
import torch

from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.pytorch import LstmBackend, WindowedLstmBackend

CPU = torch.device("cpu")


def _model(config, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = LstmLanguageModel(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.mul_(scale)
    return model


@pytest.mark.parametrize("embedding", [None, 10], ids=["one-hot", "embedding"])
def test_steps_equal_the_training_pass(generator, embedding):
    model = _model(LstmConfig(17, (24, 16), embedding))
    tokens = torch.randint(17, (4, 30), generator=generator)
    expected, final = model(tokens)
    active, wanted = torch.ones(4, 30, dtype=torch.bool), torch.arange(4 * 30)
    logits, state = model.advance(tokens, active, wanted, model.zero_state(4))
    torch.testing.assert_close(logits.view(4, 30, 17), expected, atol=1e-5, rtol=1e-5)
    for (h, c), (final_h, final_c) in zip(state, final, strict=True):
        torch.testing.assert_close(h, final_h)
        torch.testing.assert_close(c, final_c)


def test_served_text_carries_the_state_of_the_whole_prompt(generator, greedy):
    model = _model(LstmConfig(17, (24, 16)), scale=3)
    prompts = {
        slot: torch.randint(17, (length,), generator=generator).tolist()
        for slot, length in {0: 1, 3: 40, 5: 70}.items()
    }
    continued = greedy(LstmBackend(model, CPU), prompts, 30)
    for slot, prompt in prompts.items():
        logits, _ = model(torch.tensor([prompt + continued[slot]]))
        assert logits.argmax(-1)[0, len(prompt) - 1 : -1].tolist() == continued[slot]


def _numpy_logits(model, window):
    """The last logits over one window from the zero state, in fp64 and one gate at a time."""
    weights = {name: weight.double().numpy() for name, weight in model.state_dict().items()}

    def hard_sigmoid(x):
        return np.clip(0.2 * x + 0.5, 0, 1)

    inputs = np.eye(model.config.vocabulary_size)[window]
    for layer, size in enumerate(model.config.layers):
        prefix = f"layers.{layer}."
        w_in = np.split(weights[prefix + "weight_ih_l0"], 4)
        w_state = np.split(weights[prefix + "weight_hh_l0"], 4)
        bias = np.split(weights[prefix + "bias_ih_l0"] + weights[prefix + "bias_hh_l0"], 4)
        h, c, outputs = np.zeros(size), np.zeros(size), []
        for x in inputs:
            i, f, g, o = (w_in[gate] @ x + w_state[gate] @ h + bias[gate] for gate in range(4))
            c = hard_sigmoid(f) * c + hard_sigmoid(i) * np.tanh(g)
            h = hard_sigmoid(o) * np.tanh(c)
            outputs.append(h)
        inputs = np.array(outputs)
    return weights["head.weight"] @ inputs[-1] + weights["head.bias"]


def test_windowed_text_equals_a_numpy_reference(generator, greedy):
    window = 12
    model = _model(LstmConfig(17, (24, 16), recurrent_activation="hard_sigmoid", window=window), scale=4)
    prompts = {
        slot: torch.randint(17, (length,), generator=generator).tolist() for slot, length in {0: 1, 2: 5, 3: 50}.items()
    }
    expected = {}
    for slot, prompt in prompts.items():
        text = list(prompt)
        for _ in range(25):
            text.append(int(_numpy_logits(model, text[-window:]).argmax()))
        expected[slot] = text[len(prompt) :]
    backend = WindowedLstmBackend(model, CPU)
    assert greedy(backend, prompts, 25) == expected
    assert greedy(backend, {1: prompts[2]}, 25) == {1: expected[2]}
