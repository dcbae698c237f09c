"""The command line: one function per command, each importing what it needs when it runs."""

from __future__ import annotations

import signal
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument, Option

from elastriton.core.errors import ConfigError, ElastritonError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FILE: Any = {"dir_okay": False, "writable": True}  # said before the work that fills it
ConfigPath = Annotated[Path, Option("--config", "-c", help="The configuration file.")]
Build = Annotated[Path, Option("--build", "-b", help="Where profile.json, plan.json and the artifacts lie.")]
Port = Annotated[int, Option(min=0, max=65535, help="0 picks a free port.")]
Repository = Annotated[Path, Argument(help="The model repository.")]


def main() -> None:
    """Run the command line; an error of ours, or of a file, is one message and exit code 1, never a traceback.

    SIGTERM ends a command as Ctrl-C does: what it has started, a server above all, is stopped.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except ElastritonError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg="red")
    raise SystemExit(1) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"elastriton {version('elastriton')}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve transformer classifiers elastically on NVIDIA Triton."""


def _make_folders(*files: Path | None) -> None:
    """So that what takes minutes does not fail at its end."""
    for file in files:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@app.command()
def profile(
    config: ConfigPath = Path("elastriton.yaml"),
    build: Build = Path("build"),
    cell_seconds: Annotated[float, Option(help="Time to spend on each cell of the latency table.")] = 0.5,
) -> None:
    """Export the models and measure latency x level x batch and accuracy x level: BUILD/profile.json."""
    from elastriton.core.profile import PROFILE_FILE
    from elastriton.generator.config import load_config
    from elastriton.generator.profiler import profile as run
    from elastriton.generator.show import show_profile, steps

    settings = load_config(config)
    build.mkdir(parents=True, exist_ok=True)
    with steps("profile") as advance:
        result = run(settings, config.parent, build, budget_s=cell_seconds, advance=advance)
    show_profile(result)
    typer.echo(f"wrote {build / PROFILE_FILE}")


@app.command()
def tune(
    task: Annotated[str, Option(help="The task whose prompts to train.")],
    config: ConfigPath = Path("elastriton.yaml"),
    data: Annotated[Path | None, Option(help="Train on these labelled samples, not on the task's fit part.")] = None,
    output: Annotated[
        Path | None, Option(help="The file to write; by default the one the task's `prompts` names.", **_FILE)
    ] = None,
    shallow: Annotated[bool, Option("--shallow", help="Prompts before the first layer only, not before each.")] = False,
    epochs: Annotated[int, Option(min=1)] = 5,
    minutes: Annotated[float, Option(min=0.01, help="At most, for the prompts; the control takes their steps.")] = 10.0,
    learning_rate: Annotated[float, Option(min=0.0)] = 5e-3,
    json_file: Annotated[Path | None, Option("--json", help="Also write the figures as JSON.", **_FILE)] = None,
) -> None:
    """Train prompts on the frozen encoder, and a control of as many numbers that costs no tokens; compare both."""
    from elastriton.core.records import dumps
    from elastriton.generator.adapt import Training
    from elastriton.generator.config import load_config
    from elastriton.generator.show import show_tuning, steps
    from elastriton.generator.tune import prompts_file
    from elastriton.generator.tune import tune as run

    settings = load_config(config)
    file = prompts_file(task, settings, config.parent, output)
    _make_folders(file, json_file)
    training = Training(epochs=epochs, minutes=minutes, learning_rate=learning_rate, seed=settings.seed)
    with steps("tune") as advance:
        result = run(
            task, settings, config.parent, file, data=data, shallow=shallow, training=training, advance=advance
        )
    show_tuning(result)
    typer.echo(f"wrote {file}")
    if json_file is not None:
        json_file.write_text(dumps(result), encoding="utf-8")


@app.command()
def plan(config: ConfigPath = Path("elastriton.yaml"), build: Build = Path("build")) -> None:
    """Turn BUILD/profile.json and the goals of the configuration into BUILD/plan.json."""
    from elastriton.core.plan import PLAN_FILE
    from elastriton.core.records import dumps
    from elastriton.generator.config import load_config
    from elastriton.generator.goals import plan_for
    from elastriton.generator.show import show_plan

    result = plan_for(load_config(config), build)
    (build / PLAN_FILE).write_text(dumps(result), encoding="utf-8")
    show_plan(result)
    typer.echo(f"wrote {build / PLAN_FILE}")


@app.command()
def generate(repository: Repository, build: Build = Path("build")) -> None:
    """Write the model repository of BUILD/plan.json; an earlier one is replaced only by a complete new one."""
    from elastriton.generator.goals import planned
    from elastriton.generator.repository import generate as write

    models = write(planned(build), build, repository)
    typer.echo(f"wrote {len(models)} models to {repository}: {', '.join(models)}")


@app.command()
def check(repository: Repository) -> None:
    """Validate a model repository without starting Triton; exit code 1 where something is wrong."""
    from elastriton.generator.check import check as findings

    found = findings(repository)
    for finding in found:
        typer.secho(finding, err=True, fg="red")
    if found:
        raise typer.Exit(1)
    typer.echo(f"{repository} is complete and consistent")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def serve(
    context: typer.Context,
    repository: Repository,
    http_port: Port = 8000,
    grpc_port: Port = 8001,
    metrics_port: Port = 8002,
    address: Annotated[str, Option(help="The address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    tritonserver: Annotated[Path | None, Option(help="The server's binary; found by itself if not given.")] = None,
    backend_directory: Annotated[Path | None, Option(help="A complete backend directory, used as it is.")] = None,
    drain_timeout_s: Annotated[float, Option(help="How long a stop waits for requests in flight.")] = 30.0,
) -> None:
    """Run tritonserver on a repository; flags behind `--` go to tritonserver. Stops cleanly on SIGTERM."""
    from elastriton.generator.serve import run

    code = run(
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        address=address,
        tritonserver=tritonserver,
        backend_directory=backend_directory,
        drain_timeout_s=drain_timeout_s,
        extra=context.args,
    )
    raise typer.Exit(code)


@app.command()
def replay(
    config: ConfigPath = Path("elastriton.yaml"),
    url: Annotated[str, Option(help="The served repository.")] = "grpc://127.0.0.1:8001",
    trace: Annotated[str, Option(help="poisson, mmpp, step, sinusoid, or a .csv with a column TIMESTAMP.")] = "step",
    rate: Annotated[float, Option(min=0.001, help="Mean requests per second.")] = 50.0,
    requests: Annotated[int, Option(min=1)] = 1000,
    seed: Annotated[int, Option(min=0)] = 0,
    task: Annotated[list[str] | None, Option(help="Only these tasks; by default all with data.")] = None,
    json_file: Annotated[Path | None, Option("--json", help="Also write every request as JSON.", **_FILE)] = None,
    report: Annotated[
        Path | None, Option(help="Draw load, levels and utility over time (.png, .svg, .pdf).", **_FILE)
    ] = None,
    against: Annotated[list[Path] | None, Option(help="Earlier replays (--json) to draw beside this one.")] = None,
) -> None:
    """Send a trace of labelled requests to a server, open loop, and tell how many were right in time."""
    import asyncio

    from elastriton.generator.config import load_config
    from elastriton.generator.loads import make_load
    from elastriton.generator.replay import draw, labelled_samples, summarise
    from elastriton.generator.replay import replay as run
    from elastriton.generator.report import check_kind, draw_report, load_all, save
    from elastriton.generator.show import show_replay

    if report is not None:
        check_kind(report)
    elif against:
        raise ConfigError("--against draws other replays beside this one; give --report, too")
    _make_folders(json_file, report)
    earlier = load_all(against or ())
    samples = labelled_samples(load_config(config), config.parent, task or ())
    arrivals = make_load(trace, requests, rate, seed)
    sent = asyncio.run(run(url, arrivals, draw(samples, len(arrivals.arrivals_s), seed)))
    show_replay(summarise(sent))
    if json_file is not None:
        setting = {"trace": trace, "rate_per_s": rate, "seed": seed, "stretch": arrivals.stretch}
        save(json_file, sent, setting)
    if report is not None:
        draw_report(report, {f"{trace}, {rate:g} requests per s": sent, **earlier})


@app.command()
def demo(
    directory: Annotated[Path, Option(help="The demo's models and data.")] = Path("examples/demo"),
    build: Build = Path("build/demo"),
    json_file: Annotated[Path | None, Option("--json", help="Also write the figures as JSON.", **_FILE)] = None,
) -> None:
    """Prepare, profile, plan, generate, serve and query real models over HTTP and gRPC; print what came out."""
    from elastriton.generator.demo import run

    _make_folders(json_file)
    run(directory, build, json_file)


if __name__ == "__main__":
    main()
