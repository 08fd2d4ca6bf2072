"""Other people's PyTorch checkpoints: a DCGAN generator and a word LSTM, against the modules that they come from."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from contracts.errors import StoreError
from contracts.requests import ImageRequest, TextRequest
from contracts.store import Store
from export.torch_dcgan import import_dcgan
from export.torch_lstm import import_word_lstm
from models.runtimes import pytorch
from workers.local import LocalModel


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def their_generator(latent=16, width=4, channels=3) -> nn.Sequential:
    """As tutorials have it, for 32 pixels; batch norm has seen some pictures."""
    torch.manual_seed(1)
    sizes = [latent, 4 * width, 2 * width, width]
    layers: list[nn.Module] = []
    for index in range(3):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(sizes[index], sizes[index + 1], 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(sizes[index + 1]), nn.ReLU(True)]
    made = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())
    made.train()(torch.randn(32, latent, 1, 1))
    return made.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_generator_draws_what_it_drew(store, tmp_path, suffix, channels):
    theirs = their_generator(channels=channels)
    file = tmp_path / f"G{suffix}"
    torch.save(theirs.state_dict(), file) if suffix == ".pth" else save_file(theirs.state_dict(), file)
    bundle = import_dcgan(file, store, "faces")
    assert bundle.manifest.config == {"size": 32, "latent": 16, "width": 4, "channels": channels}
    latents = torch.randn(8, 16)
    with torch.inference_mode():
        expected = theirs(latents[:, :, None, None])
    drawn = pytorch.load_images(bundle, torch.device("cpu")).paint(latents)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)
    assert len(LocalModel(bundle).pictures(ImageRequest(target=bundle.target(), seed=1, count=2))) == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda weights: weights.pop("0.weight"), r"its convolutions stand at \[3, 6, 9\] instead of 0.weight"),
        (lambda weights: weights.clear(), "its convolutions stand at no place"),
        (lambda weights: weights.pop("4.running_mean"), "the weights lack 4.running_mean"),
        (lambda weights: weights.update({"3.weight": torch.zeros(9, 8, 4, 4)}), "3.weight is torch.float32"),
        (lambda weights: weights.update({"9.weight": torch.zeros(4, 7, 4, 4)}), "a picture has 1 or 3"),
        (lambda weights: weights.update({"extra": torch.zeros(1)}), "the weights hold extra"),
    ],
)
def test_what_is_no_such_generator_is_refused(store, tmp_path, spoil, said):
    weights = dict(their_generator().state_dict())
    spoil(weights)
    torch.save(weights, tmp_path / "G.pth")
    with pytest.raises(StoreError, match=said):
        import_dcgan(tmp_path / "G.pth", store, "faces")
    assert store.names() == []


class TheirLstm(nn.Module):
    """The recipe's: three layers, of names that differ from ours."""

    def __init__(self, words, width=10, units=12):
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, units, num_layers=3, dropout=0.3, batch_first=True)
        self.decoder = nn.Linear(units, words)

    def forward(self, tokens):
        return self.decoder(self.rnn(self.embed(tokens))[0])


WORDS = ["<unk>", "a", "girl", "boy", "runs", ".", ",", "it", "'s", "n't", "``", "far", "<pad>", ""]


@pytest.mark.parametrize("kind", ["list", "ids"])
def test_a_word_lstm_writes_what_it_wrote(store, tmp_path, kind):
    theirs = TheirLstm(len(WORDS)).eval()
    torch.save(theirs.state_dict(), tmp_path / "lstm.pt")
    listed = WORDS if kind == "list" else {word: number for number, word in reversed(list(enumerate(WORDS)))}
    (tmp_path / "words.json").write_text(json.dumps(listed))
    bundle = import_word_lstm(tmp_path / "lstm.pt", tmp_path / "words.json", store, "synopses", "<unk>")
    assert bundle.manifest.config["layers"] == [12, 12, 12]
    tokens = bundle.tokenizer().encode("A dragon runs, far.")
    assert tokens == [1, 0, 4, 6, 11, 5]
    with torch.inference_mode():
        for _ in range(20):
            tokens = [*tokens, int(theirs(torch.tensor([tokens]))[0, -1].argmax())]
    request = TextRequest(
        target=bundle.target(), seed=0, prompt_tokens=tuple(tokens[:6]), max_tokens=20, temperature=0, logprobs=0
    )
    (choice,) = LocalModel(bundle).text(request).choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [bundle.tokenizer().token_text(token) for token in tokens[6:]]


def test_pieces_that_our_reader_does_not_make_are_written_close(store, tmp_path):
    torch.save(TheirLstm(len(WORDS)).state_dict(), tmp_path / "lstm.pt")
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    tokenizer = import_word_lstm(tmp_path / "lstm.pt", tmp_path / "words.json", store, "synopses").tokenizer()
    assert [tokenizer.token_bytes(WORDS.index(word)) for word in ("'s", "n't", "girl", "``")] == [
        b"'s",
        b"n't",
        b" girl",
        b" ``",
    ]
    assert tokenizer.encode("dragon girl") == [2]


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (lambda weights: weights.pop("embed.weight"), WORDS, "is not the state dict of one embedding, one LSTM"),
        (lambda weights: weights.pop("decoder.bias"), WORDS, "is not the state dict of one embedding, one LSTM"),
        (lambda weights: weights.pop("rnn.bias_hh_l1"), WORDS, "the weights lack layers.1.bias_hh_l0"),
        (
            lambda weights: weights.update({"norm.weight": torch.zeros(3)}),
            WORDS,
            "it holds decoder.bias, .* norm.weight",
        ),
        (lambda weights: None, WORDS[:-1], "the tokenizer has 13 tokens, but the model 14"),
        (lambda weights: None, {"a": 0, "b": 2}, "the ids of the vocabulary's 2 words are not 0 to 1"),
        (lambda weights: None, {"a": 0, "b": 0}, "are not 0 to 1"),
        (lambda weights: None, [*WORDS[:-1], "a"], "'a' stand twice among the words"),
        (lambda weights: None, 7, "cannot be used"),
        (lambda weights: None, ["``", "--"], "there is no word among the words"),
    ],
)
def test_what_is_no_such_lstm_is_refused(store, tmp_path, spoil, words, said):
    weights = dict(TheirLstm(len(WORDS)).state_dict())
    spoil(weights)
    torch.save(weights, tmp_path / "lstm.pt")
    (tmp_path / "words.json").write_text(json.dumps(words))
    with pytest.raises(StoreError, match=said):
        import_word_lstm(tmp_path / "lstm.pt", tmp_path / "words.json", store, "synopses")
    assert store.names() == []
