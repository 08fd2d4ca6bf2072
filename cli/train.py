"""`kamishibai train`: flags are made from the fields of the recipes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from contracts.errors import StoreError
from training.recipes import (
    PLOT_DEFAULTS,
    SCRATCH,
    SCRATCH_GENRES_DEFAULTS,
    TEXT_DEFAULTS,
    CharLstmRecipe,
    DcganRecipe,
    GenresRecipe,
    Gpt2Recipe,
    LearnerRecipe,
    Recipe,
    WordLstmRecipe,
    make_recipe,
    read_recipe_file,
)
from training.run_folder import Model, Plan, RunFolder

RECIPES: dict[Model, type[Recipe]] = {
    "char-lstm": CharLstmRecipe,
    "dcgan": DcganRecipe,
    "genres": GenresRecipe,
    "gpt2": Gpt2Recipe,
    "word-lstm": WordLstmRecipe,
}
_DATA: dict[Model, str] = {"dcgan": "[FOLDER]"}  # what a model is trained on, where it is no file
FIGURE = "learning-rate.png"


_FIND_LEARNING_RATE = click.Option(
    ["--find-learning-rate"],
    is_flag=True,
    help=f"Only try growing learning rates, propose one, and draw {FIGURE} into --output.",
)


def command(model: Model) -> click.Command:
    """The command that trains such a model."""
    kind = RECIPES[model]
    own: list[click.Parameter] = [
        click.Argument(["data"], type=click.Path(path_type=Path), required=False, metavar=_DATA.get(model, "[DATA]")),
        click.Option(
            ["--output"], type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/NAME-OF-THE-DATA]"
        ),
        click.Option(["--resume"], type=click.Path(path_type=Path), metavar="RUN", help="Go on with a stopped run."),
        click.Option(
            ["--recipe", "recipe_file"],
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="TOML file with any of the fields below; flags override it.",
        ),
        click.Option(
            ["--device"],
            type=click.Choice(["auto", "cpu"]),
            default="auto",
            show_default=True,
            help="auto takes a GPU if there is one.",
        ),
    ]
    if issubclass(kind, LearnerRecipe):
        own.append(_FIND_LEARNING_RATE)
    fields = [_option(name, field) for name, field in kind.model_fields.items()]
    return click.Command(
        model, params=[*own, *fields], callback=_runner(model), help=_HELP[model], epilog=_EPILOG.format(model=model)
    )


COMMANDS: dict[str, Callable[[], click.Command]] = {model: partial(command, model) for model in RECIPES}

_HELP: dict[Model, str] = {
    "dcgan": "Train a DCGAN on the pictures below FOLDER, of any format and size; their middle squares are taken."
    " Files that are no pictures are named and skipped.",
    "char-lstm": "Train a character LSTM on DATA: any text file, or records of `kamishibai data`.",
    "genres": "Train a BERT or RoBERTa to tell the genres of plots: DATA are records of `kamishibai data movies`."
    " A baseline is trained beside it. Defaults are those for a checkpoint; from scratch "
    + ", ".join(f"{name.replace('_', '-')} {value}" for name, value in SCRATCH_GENRES_DEFAULTS.items())
    + ".",
    "word-lstm": "Train a word LSTM on DATA: records of `kamishibai data`, or any text file.",
    "gpt2": "Fine-tune GPT-2 on DATA, or train one from scratch: records of `kamishibai data`, or any text file."
    " Defaults are those for synopses; for plots "
    + ", ".join(f"{name.replace('_', '-')} {value}" for name, value in PLOT_DEFAULTS.items())
    + "; for a text file layout packed.",
}
_EPILOG = "Ctrl-C stops after the step; `kamishibai train {model} --resume RUN` goes on as if nothing had happened."


def _runner(model: Model) -> Callable[..., None]:
    def run(
        data: Path | None,
        output: Path | None,
        resume: Path | None,
        recipe_file: Path | None,
        device: str,
        find_learning_rate: bool = False,
        **flags: Any,
    ) -> None:
        given = {name: value for name, value in flags.items() if value is not None}
        if resume is not None:
            if data or output or recipe_file or given or find_learning_rate:
                raise click.UsageError("--resume goes on with a run's own data and recipe; leave the others out.")
            _resume(model, resume, device)
            return
        if data is None:
            raise click.UsageError(f"Give {_DATA.get(model, '[DATA]')[1:-1]} to train on, or --resume RUN.")
        plan, output = _plan(model, data, recipe_file, given), output or Path("runs") / f"{data.resolve().stem}-{model}"
        if find_learning_rate:
            _find_learning_rate(plan, output, device)
        else:
            folder = RunFolder(output)
            _train(plan, folder, device)

    return run


def _plan(model: Model, data: Path, recipe_file: Path | None, flags: dict[str, Any]) -> Plan:
    """Raises StoreError."""
    from training.texts import holds_plots, holds_records

    defaults: dict[str, Any] = {}
    if model == "gpt2":
        defaults = PLOT_DEFAULTS if holds_plots(data) else {} if holds_records(data) else TEXT_DEFAULTS
    from_file = read_recipe_file(recipe_file) if recipe_file else {}
    if model == "genres" and {**from_file, **flags}.get("model") == SCRATCH:
        defaults = SCRATCH_GENRES_DEFAULTS
    return Plan.of(model, make_recipe(RECIPES[model], defaults, from_file, flags), data)


def _resume(model: Model, path: Path, device: str) -> None:
    folder, plan = RunFolder.of_run(path)
    if plan.model != model:
        raise StoreError(f"{path} trains a {plan.model}; go on with: kamishibai train {plan.model} --resume {path}")
    plan.check_data()
    _train(plan, folder, device)


def _train(plan: Plan, folder: RunFolder, device: str) -> None:
    """Raises StoreError; exits with 130 where the run was stopped."""
    from training.runs import trainer_of
    from training.stopping import Stopped

    trainer = trainer_of(plan, folder, device=device)
    try:
        run = trainer.run()
    except Stopped as stopped:
        if trainer.is_main_process:
            click.echo(f"{stopped}; go on with: kamishibai train {plan.model} --resume {folder.path}", err=True)
        sys.exit(130)
    if trainer.is_main_process:
        click.echo(f"{run}: {trainer.summary()}")
        click.echo(f"serve it with: kamishibai export {run} --name {folder.path.name} && kamishibai up")


def _find_learning_rate(plan: Plan, output: Path, device: str) -> None:
    from training.learning_rate import find_learning_rate as find
    from training.runs import objective_of

    output.mkdir(parents=True, exist_ok=True)
    found = find(objective_of(plan), output / FIGURE, device=device)
    click.echo(f"{output / FIGURE}: the loss falls fastest at a learning rate of {found.proposed:.1e}")
    click.echo(f"use it with: --learning-rate {found.proposed:.1e}")


def _option(name: str, field: FieldInfo) -> click.Option:
    """`--batch-rows` of the field batch_rows; its default is left to the recipe, which a file may have set."""
    flag = "--" + name.replace("_", "-")
    default = "none" if field.default is None else _shown(field.default)
    help_text = f"{field.description}  [default: {default}]" if field.default is not None else field.description
    kind = _kind(field.annotation)
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=help_text)
    if get_origin(kind) is Literal:
        return click.Option([flag], type=click.Choice(get_args(kind)), help=help_text)
    if get_origin(kind) is tuple:
        return click.Option([flag], callback=_numbers, metavar="N,N,...", help=help_text)
    return click.Option([flag], type=kind, help=help_text)


def _kind(annotation: Any) -> Any:
    """The one type of an option that may be None, without its constraints."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    return annotation


def _numbers(_context: click.Context, _option: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers like 128,128.") from None


def _shown(default: Any) -> str:
    """As one would give it on the command line."""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
