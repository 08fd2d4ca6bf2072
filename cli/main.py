"""`kamishibai`: every command of the product.

Only click is imported before a command runs, so `--help` answers at once.
"""

from __future__ import annotations

import logging.config
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

STORE = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("store"),
    envvar="KAMISHIBAI_STORE",
    show_default=True,
    help="Folder with the models.",
)
REDIS_URL = click.option(
    "--redis-url", envvar="KAMISHIBAI_REDIS_URL", help="redis://, rediss://, unix:// or redis+sentinel:// URL."
)
DEVICE = click.option(
    "--device",
    callback=lambda _context, _option, value: check_device(value),
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:1, ...; auto takes GPUs first.",
)
KV_MEMORY = click.option(
    "--kv-memory",
    "kv_bytes",
    callback=lambda _context, _option, value: value if value is None else parse_memory(value),
    help="KV cache of a worker, shared by its models, like 4GiB.  [default: 2GiB]",
)
RESULT_CACHE = click.option(
    "--result-cache",
    "result_cache_bytes",
    callback=lambda _context, _option, value: value if value is None else parse_memory(value),
    help="Memory of a server process for answers that may be asked for again, like 256MiB.  [default: none]",
)
VARIANT = click.option("--variant", help="As in onnx:fp32.  [default: pytorch:fp32]")
SERVED_VARIANT = click.option(
    "--variant", help="As in onnx:fp32, for models that have it.  [default: what `tune` found, else pytorch:fp32]"
)
NAME = click.option("--name", required=True, help="Name of the model in the store.")
MODELS = click.option("--models", help="Models to serve, separated by commas; default: all of the store.")

PULL_KEY = click.option(
    "--api-key",
    envvar="KAMISHIBAI_API_KEY",
    help="Of that server, with the scope worker; KAMISHIBAI_API_KEY hides it from a machine's other users.",
)


def VARIANTS(command: Callable[..., None]) -> Callable[..., None]:  # noqa: N802 - an option like those above
    """Which variants a bundle is to hold."""
    options = (
        click.option(
            "--formats",
            callback=lambda _context, _option, value: words(value, "pytorch", "torchscript", "pt2", "onnx"),
            help="Of pytorch, torchscript, pt2 and onnx, separated by commas.  [default: pytorch,onnx]",
        ),
        click.option(
            "--precisions",
            callback=lambda _context, _option, value: words(value, "fp32", "fp16", "bf16", "int8"),
            help="Of fp32, fp16, bf16 and int8, separated by commas.  [default: all that a format has for this model]",
        ),
        click.option("--force", is_flag=True, help="Keep variants that miss a bound; the manifest says so."),
    )
    for option in reversed(options):
        command = option(command)
    return command


CANDIDATE = click.option(
    "--candidate",
    is_flag=True,
    help="New requests do not run on it until `models promote`, if the model has another version.",
)
TEXT = click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text that it was not trained on, to judge the variants by: their perplexity too.",
)


def wishes(formats: list[Any], precisions: list[Any], force: bool, text: Path | None = None) -> Any:
    """What VARIANTS and TEXT have been given as. Raises StoreError for a text that cannot be read."""
    from export.formats import Wishes
    from models.pretrained.source import read_text

    held_out = None if text is None else read_text(text)
    return Wishes(frozenset(formats), frozenset(precisions), force=force, held_out=held_out, show_progress=True)


def parse_memory(text: str) -> int:
    """Raises click.BadParameter for what is no amount of memory."""
    from contracts.settings import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def words(value: str | None, *known: str) -> list[str]:
    """A list separated by commas. Raises click.BadParameter for a word that is not known."""
    given = [word.strip() for word in (value or "").split(",") if word.strip()]
    for word in given:
        if word not in known:
            raise click.BadParameter(f"{word!r} is not one of {', '.join(known)}.")
    return given


def check_device(name: str) -> str:
    """Raises click.BadParameter for what can be no device."""
    if not re.fullmatch(r"auto|cpu|(cuda|mps)(:\d{1,3})?", name):
        raise click.BadParameter(f"{name!r} is not a device; give auto, cpu, cuda or cuda:1.")
    return name


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kamishibai")
def cli() -> None:
    """Train, export and serve small generative models.

    Start with `kamishibai up`: it runs a server, a worker and a Redis of its own, and makes demo models in an empty
    store.
    """


def main() -> None:
    """Entry point: errors that the user can mend are one line, not a traceback."""
    from contracts.errors import KamishibaiError, StoreError

    # Before any torch is loaded, here or in a process of ours: threads that spin long while they wait starve the others
    # on their core, and threads that never spin are slow on a quiet machine; docs/log.md has the figures.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        # Without its standalone mode click returns the status of an Exit; the commands themselves return None.
        if status := cli(prog_name="kamishibai", standalone_mode=False):
            sys.exit(status)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (StoreError, KamishibaiError, ValueError, OSError) as error:
        click.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)


@cli.command()
@STORE
@click.option("--host", envvar="KAMISHIBAI_HOST", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, envvar="KAMISHIBAI_PORT", help="Port to listen on.  [default: 8000]")
@REDIS_URL
@MODELS
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one per GPU, else one]")
@DEVICE
@SERVED_VARIANT
@KV_MEMORY
@click.option(
    "--durability",
    type=click.Choice(["second", "always"]),
    default="second",
    show_default=True,
    help="What a power cut may cost: the last second, or nothing (slower). A killed process costs nothing either way.",
)
@RESULT_CACHE
def up(**options: Any) -> None:
    """Run everything: Redis, workers, the clerk and the HTTP server. Ctrl-C stops all in order."""
    from cli.up import run_everything

    log_to_stderr()
    run_everything(**options)


@cli.command()
@STORE
@click.option("--host", envvar="KAMISHIBAI_HOST", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, envvar="KAMISHIBAI_PORT", help="Port to listen on.  [default: 8000]")
@REDIS_URL
@click.option("--processes", "server_processes", type=click.IntRange(1), help="Server processes.  [default: 1]")
@RESULT_CACHE
def serve(**options: Any) -> None:
    """Run the HTTP server alone; it needs a Redis and, to be of use, a worker."""
    from contracts.settings import from_environment
    from server.serving import serve as serve_forever

    serve_forever(from_environment(**options))


@cli.command()
@STORE
@REDIS_URL
def clerk(**options: Any) -> None:
    """Run one clerk: it carries out batches and sends webhooks. Any number of them may run on one Redis."""
    from cli.clerk import run_clerk

    run_clerk(**options)


@cli.command()
@STORE
@REDIS_URL
@MODELS
@DEVICE
@SERVED_VARIANT
@KV_MEMORY
@click.option("--name", help="Name in `rq info`.  [default: host and a random part]")
@click.option(
    "--store-from",
    metavar="URL",
    envvar="KAMISHIBAI_STORE_FROM",
    help="Server whose models to pull into --store, new versions too.  [default: the store is shared by path]",
)
@PULL_KEY
@click.option(
    "--candidate",
    is_flag=True,
    help="Serve them for comparison: only to `models shadow` and to requests that name the version, until promoted.",
)
def worker(**options: Any) -> None:
    """Run one worker: it serves models of the store from the queue."""
    from cli.worker import run_worker

    run_worker(**options)


@cli.group(name="import")
def import_() -> None:
    """Bring somebody else's trained model into the store."""


@import_.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--corpus",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The text it was trained on; its characters, in order of first appearance, are the vocabulary.",
)
@NAME
@TEXT
@VARIANTS
@CANDIDATE
@STORE
def tfjs(folder: Path, corpus: Path, name: str, store: Path, candidate: bool, **variants: Any) -> None:
    """Import a TensorFlow.js character LSTM: FOLDER holds model.json and its weights."""
    from contracts.store import Store
    from export.tfjs import import_tfjs

    tell(import_tfjs(folder, corpus, Store(store, candidates=candidate), name, wishes(**variants)))


@import_.command()
@click.argument("place", metavar="FOLDER|NAME")
@NAME
@click.option("--fields", help="Format of GPT-2's texts, if it has one, like 'genre<|endofgenre|>plot<|endoftext|>'.")
@click.option(
    "--activation",
    type=click.Choice(["sigmoid", "softmax"]),
    help="Of a classifier: any number of labels apply to a text, or one.  [default: what problem_type says]",
)
@TEXT
@VARIANTS
@CANDIDATE
@STORE
def hf(
    place: str, name: str, fields: str | None, activation: Any, store: Path, candidate: bool, **variants: Any
) -> None:
    """Import a Hugging Face checkpoint: FOLDER holds config.json, weights and tokenizer; NAME is one on the hub.

    That of a GPT-2, or of a BERT or RoBERTa for sequence classification.
    """
    from contracts.prompt_fields import PromptFields
    from contracts.store import Store
    from export.checkpoint import import_checkpoint
    from models.pretrained.hub import checkpoint_folder

    prompt_fields = PromptFields.from_format(fields) if fields else None
    folder = checkpoint_folder(place)
    tell(
        import_checkpoint(
            folder, Store(store, candidates=candidate), name, prompt_fields, activation, wishes(**variants)
        )
    )


FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@import_.command()
@FILE
@NAME
@VARIANTS
@CANDIDATE
@STORE
def dcgan(file: Path, name: str, store: Path, candidate: bool, **variants: Any) -> None:
    """Import a DCGAN generator: FILE is the state dict of its nn.Sequential."""
    from contracts.store import Store
    from export.torch_dcgan import import_dcgan

    tell(import_dcgan(file, Store(store, candidates=candidate), name, wishes(**variants)))


@import_.command()
@FILE
@click.option(
    "--vocabulary",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="JSON file: the words in the order of their ids, or an object with the id of each.",
)
@click.option(
    "--unknown-token", help="Stands for words of a prompt that it does not know.  [default: they are left out]"
)
@click.option("--lowercase/--keep-case", default=True, show_default=True, help="Whether prompts are lower-cased.")
@NAME
@TEXT
@VARIANTS
@CANDIDATE
@STORE
def word_lstm(
    file: Path,
    vocabulary: Path,
    unknown_token: str | None,
    lowercase: bool,
    name: str,
    store: Path,
    candidate: bool,
    **variants: Any,
) -> None:
    """Import a word LSTM: FILE is the state dict of an embedding, an nn.LSTM and a linear layer."""
    from contracts.store import Store
    from export.torch_lstm import import_word_lstm

    bundle = import_word_lstm(
        file, vocabulary, Store(store, candidates=candidate), name, unknown_token, lowercase, wishes(**variants)
    )
    tell(bundle)


class _Training(click.Group):
    """Options of its commands are made from the fields of recipes, which are imported for nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["char-lstm", "dcgan", "genres", "gpt2", "word-lstm"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from cli.train import COMMANDS

        return COMMANDS[cmd_name]() if cmd_name in COMMANDS else None


@cli.group(cls=_Training)
def train() -> None:
    """Train a model on your own texts or pictures; it leaves a run folder, which `export` takes."""


@cli.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@NAME
@TEXT
@VARIANTS
@CANDIDATE
@STORE
def export(run: Path, name: str, store: Path, candidate: bool, **variants: Any) -> None:
    """Make a bundle in the store from a training run's folder.

    pytorch:fp32 is always in it. Every other variant is measured beside it and left out if it is too far away. By
    default those are all that pytorch and onnx have, but fp16 for models of 20 million parameters or more.
    TorchScript, which PyTorch has deprecated in favour of pt2, and pt2, which is not served here but can be taken
    elsewhere, hold one more copy of the weights each; ask for them. With both --formats and --precisions every pair
    is meant, and one that cannot be is refused with the reason.
    """
    from contracts.store import Store
    from export.run import export_run

    tell(export_run(run, Store(store, candidates=candidate), name, wishes(**variants)))


@cli.command()
@STORE
def demo(store: Path) -> None:
    """Train four small models in a minute or two and put them into the store."""
    from cli.demo import make_demo_models

    make_demo_models(store)


@cli.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements of each variant.")
@DEVICE
@STORE
def tune(model: str, rounds: int, device: str, store: Path) -> None:
    """Measure the variants of MODEL here, and have workers on such devices run the fastest.

    Only variants that are within their bounds and batch invariant are chosen. Workers that run change over by
    themselves.
    """
    from cli.tune import tune as tune_here

    tune_here(store, model, device, rounds)


@cli.command()
@STORE
@REDIS_URL
def doctor(store: Path, redis_url: str | None) -> None:
    """Look at this machine, its libraries and the store; say what is missing, and how to mend it."""
    from cli.doctor import examine

    examine(store, redis_url)


@cli.group(invoke_without_command=True)
@STORE
@click.pass_context
def models(context: click.Context, store: Path) -> None:
    """List the models of the store, or look at one."""
    from cli.models import list_models

    if context.invoked_subcommand is None:
        list_models(store)


@models.command()
@click.argument("model")
@click.pass_context
def show(context: click.Context, model: str) -> None:
    """Show MODEL's variants, their files and how far each is from pytorch:fp32."""
    from cli.models import show_model

    show_model((context.parent or context).params["store"], model)


@models.command()
@click.argument("model")
@DEVICE
@VARIANT
@click.pass_context
def probe(context: click.Context, model: str, device: str, variant: str | None) -> None:
    """Show whether MODEL gives a row the same bits in every batch and place."""
    from cli.models import show_probe

    show_probe((context.parent or context).params["store"], model, device, variant)


THIS_STORE = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    callback=lambda context, _option, value: value or context.parent.params["store"],
    help="Folder with the models.  [default: store]",
)
YES = click.option("--yes", "sure", is_flag=True, help="Do not ask.")


@models.command()
@click.argument("models", metavar="[MODEL[@VERSION]]...", nargs=-1)
@THIS_STORE
def verify(models: tuple[str, ...], store: Path) -> None:
    """Check that no file was changed since it was written; a damaged version is exit status 1."""
    from cli.versions import verify as verify_versions

    verify_versions(store, models)


@models.command()
@click.argument("model")
@click.option("--to", "version", type=click.IntRange(1), help="This version.  [default: what ran before the latest]")
@THIS_STORE
def rollback(model: str, version: int | None, store: Path) -> None:
    """Undo the last promotion of MODEL, or run new requests on an earlier version again."""
    from cli.versions import roll_back

    roll_back(store, model, version)


@models.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@click.option("--from", "address", metavar="URL", required=True, help="Server, like https://models.example.org.")
@click.option("--digest", help="SHA-256 of its manifest, as you know it from elsewhere; another bundle is refused.")
@PULL_KEY
@THIS_STORE
def pull(**options: Any) -> None:
    """Fetch a version of MODEL from the store of a running server; the latest by default.

    Every byte is checked, and what breaks off goes on where it was. `kamishibai worker --store-from` does this by
    itself.
    """
    from cli.pull import pull as pull_here

    pull_here(**options)


@models.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@YES
@THIS_STORE
@REDIS_URL
def rm(model: str, sure: bool, store: Path, redis_url: str | None) -> None:
    """Remove one version, or all of a model, for good. One that has jobs is kept."""
    from cli.versions import remove

    remove(store, model, sure, redis_url)


@models.command()
@click.argument("model")
@click.option(
    "--candidate", metavar="VERSION[/VARIANT]", help="Begin: also run requests on this, which a worker serves."
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Of the requests that are also run on it.",
)
@click.option("--stop", is_flag=True, help="Compare no longer.")
@THIS_STORE
@REDIS_URL
def shadow(model: str, candidate: str | None, share: float, stop: bool, store: Path, redis_url: str | None) -> None:
    """Compare what MODEL's new requests run on with a candidate, under live traffic; show what was found."""
    from cli.shadows import begin_shadow, show_shadow, stop_shadow

    if stop and candidate:
        raise click.UsageError("Give --candidate to begin or --stop to end, not both.")
    if candidate:
        begin_shadow(store, model, candidate, share, redis_url)
    else:
        (stop_shadow if stop else show_shadow)(store, model, redis_url)


@models.command()
@click.argument("model")
@click.option("--to", metavar="VERSION[/VARIANT]", help="This one.  [default: the candidate of the running comparison]")
@THIS_STORE
@REDIS_URL
def promote(model: str, to: str | None, store: Path, redis_url: str | None) -> None:
    """Run new requests for MODEL on the candidate. What was accepted before stays where it is."""
    from cli.shadows import promote as promote_candidate

    promote_candidate(store, model, to, redis_url)


@models.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="Versions of each model to keep.")
@YES
@THIS_STORE
@REDIS_URL
def prune(models: tuple[str, ...], keep: int, sure: bool, store: Path, redis_url: str | None) -> None:
    """Remove old versions for good; the newest ones and the latest stay."""
    from cli.versions import prune as prune_versions

    prune_versions(store, models, keep, sure, redis_url)


@cli.group()
def data() -> None:
    """Clean other people's tables and texts, for training.

    Records come out as JSON Lines or, where the name ends in .parquet, as Parquet; each says whether it is to train on
    or to validate.
    """


TABLES = click.argument(
    "tables", nargs=-1, required=True, metavar="TABLE...", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
RECORDS = click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File ending in .jsonl or .parquet.",
)
VALIDATION_SHARE = click.option(
    "--validation-share",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Of the titles; a title is always in the same part.",
)
SPLIT_SEED = click.option("--seed", type=int, default=0, show_default=True, help="Another one splits otherwise.")


@data.command(name="anime")
@TABLES
@RECORDS
@VALIDATION_SHARE
@SPLIT_SEED
def anime_(**options: Any) -> None:
    """Synopses of CSV or TSV files with title, synopsis and genres, and how many rows each rule has dropped."""
    from cli.data import clean_anime

    clean_anime(**options)


@data.command(name="movies")
@TABLES
@RECORDS
@VALIDATION_SHARE
@SPLIT_SEED
@click.option("--any-language", is_flag=True, help="Keep plots that are not English.")
def movies_(**options: Any) -> None:
    """Plots of CSV or TSV files with title, plot and genres, listed in a cell or a column of 0 and 1 for each."""
    from cli.data import clean_movies

    clean_movies(**options)


@data.command(name="text")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Text file.")
def text_(**options: Any) -> None:
    """One corpus of all .txt, .md, .html, .json and .jsonl files below FOLDER: texts, pages, exports of messages."""
    from cli.data import gather_text

    gather_text(**options)


@cli.group(name="evaluate")
def evaluate_() -> None:
    """Judge what a model has written or drawn: tables, figures and a page."""


@evaluate_.command(name="text")
@click.argument("dumps", nargs=-1, required=True, metavar="DUMP...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Records that the model was trained on, as `kamishibai data` writes them; those to validate are left out.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the report; an earlier one is replaced.",
)
@click.option(
    "--encoder",
    metavar="FOLDER|NAME",
    help="sentence-transformers model, here or on the hub, to compare meaning with.  [default: words alone]",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    help="Format of lines, like 'genre<|endofgenre|>plot<|endoftext|>'; of several a file takes the one that fits.  "
    "[default: those of the public movie plots]",
)
@click.option("--model", metavar="MODEL[@VERSION]", help="Measure the perplexity of this one of the store, on --text.")
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text that --model was not trained on.",
)
@STORE
@DEVICE
def evaluate_text_(**options: Any) -> None:
    """Hold generated texts against those of the training, and write a report.

    DUMP is a file of `kamishibai dump`, a text file with a line per text and a name like temp_0_7_topp_0_9.txt, or a
    folder of such files.
    """
    from cli.evaluate import evaluate_text

    evaluate_text(**options)


@evaluate_.command(name="pictures")
@click.argument("generated", metavar="FOLDER|MODEL[@VERSION]")
@click.argument("real", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the report; an earlier one is replaced.",
)
@click.option(
    "--count", type=click.IntRange(10), default=1000, show_default=True, help="Pictures that a model is to draw."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first 64; the next have the next one."
)
@DEVICE
@VARIANT
@STORE
def evaluate_pictures_(**options: Any) -> None:
    """Hold generated pictures against the REAL ones of a folder, and write a report.

    The generated ones are those of a folder, or drawn here by a model of the store.
    """
    from cli.evaluate_pictures import evaluate_pictures

    evaluate_pictures(**options)


@cli.group()
def keys() -> None:
    """Say who may ask a server: make, list and revoke API keys.

    They lie in Redis: that of `kamishibai up` on the store, if it runs, or the one given.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["infer", "worker", "admin"]),
    default="infer",
    show_default=True,
    help="infer: ask models, and see the jobs made with this key. worker: pull models, and nothing else. admin: both,"
    " and see all jobs and the metrics.",
)
@click.option("--jobs-per-minute", type=click.IntRange(1), help="Requests of any kind; the server's default if absent.")
@click.option("--unfinished-jobs", type=click.IntRange(1), help="That may wait or run at once; likewise.")
@STORE
@REDIS_URL
def create(**options: Any) -> None:
    """Make a key and show it, once. From the first key on, every route but health and URLs of pictures needs one."""
    from cli.keys import create_key

    create_key(**options)


@keys.command(name="list")
@STORE
@REDIS_URL
def list_(**options: Any) -> None:
    """List all keys, the revoked ones too."""
    from cli.keys import list_keys

    list_keys(**options)


@keys.command()
@click.argument("name_or_id", metavar="NAME|ID")
@STORE
@REDIS_URL
def revoke(**options: Any) -> None:
    """Refuse a key from now on. When the last one is revoked, nobody is let in."""
    from cli.keys import revoke_key

    revoke_key(**options)


@keys.command()
@click.confirmation_option(prompt="Forget all API keys, and let in whoever reaches the servers?")
@STORE
@REDIS_URL
def off(**options: Any) -> None:
    """Forget all keys and need none any more."""
    from cli.keys import forget_keys

    forget_keys(**options)


@cli.command()
@click.argument("job")
@STORE
@REDIS_URL
@DEVICE
def replay(job: str, store: Path, redis_url: str | None, device: str) -> None:
    """Run a stored JOB again, alone and here, and compare the results. A differing result is exit status 1."""
    from cli.replay import replay_job

    replay_job(job, store, redis_url, device)


@cli.command()
@click.argument("model")
@click.option("--prompt", help="Text to go on from.")
@click.option("--max-tokens", type=click.IntRange(1), default=200, show_default=True, help="Tokens to write at most.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="0 takes the likeliest.")
@click.option("--top-k", type=click.IntRange(0), default=0, help="Draw among the k likeliest tokens; 0 is off.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Draw among the likeliest of this mass."
)
@click.option("--min-p", type=float, default=0.0, help="Draw only tokens this likely, as a share of the likeliest's.")
@click.option("--repetition-penalty", type=float, default=1.0, help="Above 1: fewer repetitions of prompt and text.")
@click.option("--presence-penalty", type=float, default=0.0, help="Above 0: new tokens are preferred; -2 to 2.")
@click.option("--frequency-penalty", type=float, default=0.0, help="The same, for each time a token was written.")
@click.option("--no-repeat-ngram-size", type=int, default=0, help="No sequence of this many tokens comes twice.")
@click.option("--num-beams", type=int, default=1, help="Search with so many beams; with --temperature 0 the likeliest.")
@click.option("--length-penalty", type=float, default=1.0, help="Above 0 beams favour long texts, below 0 short ones.")
@click.option("--min-tokens", type=int, default=0, help="Tokens to write at least.")
@click.option("--stop", multiple=True, help="Stop before this text; can be given more than once.")
@click.option("--seed", type=click.IntRange(0), help="Same seed, same output.  [default: drawn, and shown]")
@click.option("--n", "count", type=click.IntRange(1), default=1, show_default=True, help="Pictures to draw.")
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Draw pictures' latents from this middle share of the normal distribution; 1 is all of it.",
)
@click.option("--to-seed", type=click.IntRange(0), help="Draw frames from the picture of --seed to that of this seed.")
@click.option("--frames", type=click.IntRange(2), default=16, show_default=True, help="Frames to draw with --to-seed.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for pictures: .png (tiled), .gif, .webp (animated) or .npy (an array).  [default: MODEL-SEED.png]",
)
@DEVICE
@VARIANT
@STORE
def generate(**options: Any) -> None:
    """Write text or draw pictures with MODEL, without a server."""
    from cli.generate import generate as generate_locally

    generate_locally(**options)


@cli.command()
@click.argument("model")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Labels this likely apply.  [default: the model's]")
@click.option("--top-k", type=click.IntRange(1), help="Show so many labels, likeliest first.  [default: all]")
@click.option(
    "--long-texts",
    type=click.Choice(["truncate", "average", "refuse"]),
    default="truncate",
    show_default=True,
    help="Of a text that is too long: read its beginning, average over windows, or refuse it.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each text.")
@DEVICE
@VARIANT
@STORE
def classify(**options: Any) -> None:
    """Label each TEXT with MODEL, without a server. Labels that apply are marked with a star."""
    from cli.classify import classify as classify_locally

    classify_locally(**options)


@cli.command()
@click.argument("model", metavar="MODEL[@VERSION]")
@click.option(
    "--output",
    metavar="FOLDER",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to make, with a file for each setting.",
)
@click.option("--genres", metavar="LIST|FILE", help="Short for --field genre=LIST|FILE.")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=LIST|FILE",
    help="Texts for each of these values of a field, like genre=action,drama; FILE has one on a line. Of several fields"
    " every combination.",
)
@click.option(
    "--from",
    "records",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts for each value of the model's first field in these records, as `kamishibai data` writes them.",
)
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts that begin with each line of this file; the way for models without fields.",
)
@click.option("--samples", type=click.IntRange(1), default=10, show_default=True, help="Texts for each, per setting.")
@click.option("--temperatures", metavar="LIST", default="0.7,1,1.3", show_default=True, help="0 takes the likeliest.")
@click.option(
    "--top-p", "top_ps", metavar="LIST", default="off,0.9", show_default=True, help="Each with every temperature."
)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Tokens to write at most.")
@click.option(
    "--seed", type=click.IntRange(0), default=42, show_default=True, help="Same seed, same command, same files."
)
@click.option("--plain", is_flag=True, help="A text on a line with its markers, in .txt files, and nothing else.")
@click.option("--server", metavar="URL", help="Let a running server do it, like http://127.0.0.1:8000.")
@click.option(
    "--api-key",
    envvar="KAMISHIBAI_API_KEY",
    help="Of that server; KAMISHIBAI_API_KEY hides it from a machine's other users.",
)
@DEVICE
@VARIANT
@click.option(
    "--kv-memory",
    "kv_bytes",
    callback=lambda _context, _option, value: value if value is None else parse_memory(value),
    help="KV cache; with more of it more texts are written at once.  [default: 2GiB]",
)
@STORE
def dump(**options: Any) -> None:
    """Write many texts of MODEL into files, one for each temperature and top-p, all in shared batches.

    Either here, or with --server by the workers of a running server; the texts are the same.
    """
    from cli.dump import dump as dump_texts

    dump_texts(**options)


@cli.command()
@click.argument("url", required=False)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="Model to ask; of several each request draws one, by their weights.  [default: the only one there is]",
)
@click.option(
    "--concurrency",
    metavar="LIST",
    help="Closed loop: so many requests under way at any time, like 1,8,32.  [default: 8, without --rate]",
)
@click.option("--rate", metavar="LIST", help="Open loop: so many requests a second, whatever comes back, like 5,10,20.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "gamma"]),
    default="poisson",
    show_default=True,
    help="How requests of --rate are spread in time.",
)
@click.option(
    "--shape",
    type=click.FloatRange(0, min_open=True),
    help="Of gamma: below 1 bursts, above 1 more evenly; 1 is poisson.",
)
@click.option("--requests", type=click.IntRange(1), help="Of each level.  [default: 100, without --duration]")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), help="Seconds of each level, instead of --requests."
)
@click.option(
    "--warmup", type=click.IntRange(0), default=8, show_default=True, help="Requests before each level, not measured."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of prompts, lengths, arrivals and each request's own seed: the same one asks the same.",
)
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Prompts and texts to draw from: a line each; of .jsonl JSON strings, or objects with a `prompt` or `text`."
    "  [default: common words]",
)
@click.option("--prompt-tokens", default="32", show_default=True, help="Of prompts of common words; 16-64 is a range.")
@click.option("--new-tokens", default="128", show_default=True, help="To write at most; 64-256 is a range.")
@click.option("--ignore-eos", is_flag=True, help="Have texts written to their full length, where a server knows that.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Stream texts, to see when tokens come.")
@click.option("--pictures", type=click.IntRange(1), default=1, show_default=True, help="Of a request.")
@click.option("--texts", type=click.IntRange(1), default=1, show_default=True, help="Of a request to classify.")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help="One more field of every request, like temperature=0.8; can be given more than once.",
)
@click.option(
    "--objective",
    metavar="BOUNDS",
    help="Count requests within these seconds to the first token, per further token, in all: ttft:0.5,tpot:0.05,e2e:5.",
)
@click.option(
    "--check",
    metavar="N|all",
    help="Requests of each level to repeat alone, to see whether load changes answers; 0 is none.  [default: 16]",
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600, show_default=True, help="Seconds.")
@click.option(
    "--task",
    type=click.Choice(["text", "image", "classify"]),
    help="Of models whose server does not tell.  [default: text]",
)
@click.option(
    "--api-key",
    envvar="KAMISHIBAI_API_KEY",
    help="Of the server; KAMISHIBAI_API_KEY hides it from a machine's other users.",
)
@click.option(
    "--output", metavar="FOLDER", type=click.Path(path_type=Path), help="For results.json, a page and figures."
)
@click.option(
    "--compare",
    "comparison",
    nargs=2,
    metavar="FIRST SECOND",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare two results.json of one workload, instead.",
)
def bench(**options: Any) -> None:
    """Measure the server at URL under load: rates, latencies, errors, and whether load changes answers.

    It asks any server that speaks the OpenAI API. Tables come first, one line of JSON last.
    """
    from cli.bench.command import bench as bench_server

    bench_server(**options)


def tell(bundle: Any) -> None:
    """Say what has been put into the store."""
    manifest = bundle.manifest
    megabytes = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    click.echo(f"{manifest.name}@{manifest.version}: {manifest.family}, {megabytes:.1f} MB, in {bundle.path}")
    for name, reason in manifest.left_out.items():
        click.secho(f"{name} was left out: {reason}; --force of `kamishibai export` keeps it", fg="yellow", err=True)


def log_to_stderr() -> None:
    from contracts.logs import configuration
    from contracts.settings import from_environment

    logging.config.dictConfig(configuration(from_environment()))


if __name__ == "__main__":
    main()
