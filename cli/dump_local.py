"""The texts of a dump from an engine in this process: all settings share its batches."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from cli.devices import devices
from cli.dump_plan import Plan, PlannedText, WritingModel
from cli.dump_writer import Texts, Written
from cli.generate import load
from contracts.errors import InvalidRequest
from contracts.requests import CompletionBody, TextRequest, describe
from contracts.results import TextResult
from contracts.store import Store, split_name
from workers.local import LocalModel


class LocalWriter:
    def __init__(self, local: LocalModel) -> None:
        manifest = local.bundle.manifest
        name = f"{manifest.name}@{manifest.version}"
        self.model = WritingModel(name, manifest.prompt_fields, manifest.limits.context_tokens)
        self._local = local
        self._tokens = lru_cache(maxsize=1)(local.bundle.tokenizer().encode)  # samples of a prompt follow each other

    def write(self, plan: Plan) -> Texts:
        """As they end. Raises InvalidRequest for prompts that the model cannot go on from, EngineFailed."""
        texts = plan.texts()
        requests = [self._request(plan, text) for text in texts]
        for place, result in self._local.texts(requests):
            yield texts[place], _written(result)

    def _request(self, plan: Plan, text: PlannedText) -> TextRequest:
        """The request that a server makes of the same body."""
        try:
            body = CompletionBody.model_validate(plan.body(text, self.model))
        except ValidationError as error:
            raise InvalidRequest(describe(error)) from None
        tokens = self._tokens(text.prompt)
        self._check(text.prompt, len(tokens), most_tokens := body.most_tokens(len(tokens)))
        return TextRequest(
            target=self._local.bundle.target(),
            seed=text.seed,
            prompt_tokens=tuple(tokens),
            max_tokens=most_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            echo=body.echo,
            with_fields=self.model.prompt_fields is not None,
        )

    def _check(self, prompt: str, tokens: int, most_tokens: int) -> None:
        context, name = self.model.context_tokens, self.model.name
        if not tokens:
            raise InvalidRequest(f"the beginning {prompt!r} holds nothing that {name} can read; give it some text")
        if context is not None and (most_tokens < 1 or tokens + most_tokens > context):
            raise InvalidRequest(
                f"the beginning {prompt!r} has {tokens} tokens, too many to write {max(most_tokens, 1)} more within"
                f" the {context} of {name}'s context; shorten it, or lower --max-tokens"
            )


def _written(result: TextResult) -> Written:
    (choice,) = result.choices
    return Written(choice.marked_text or choice.text, choice.fields or {}, choice.finish_reason, result.fingerprint)


def local_writer(model: str, store: Path, device: str, variant: str | None, kv_bytes: int | None) -> LocalWriter:
    """Raises StoreError, InvalidRequest for a model that writes no texts."""
    bundle = Store(store).open(*split_name(model))
    if (task := bundle.manifest.task) != "text":
        raise InvalidRequest(f"{model} is for {task} and writes no texts; `kamishibai models` lists models that do")
    return LocalWriter(load(bundle, devices(device)[0], variant, kv_bytes))
