"""What the commands print: progress, tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from elastriton.core.plan import Plan
from elastriton.core.profile import Accuracy, Profile
from elastriton.generator.measure import Advance
from elastriton.generator.replay import Summary

if TYPE_CHECKING:
    from elastriton.generator.tune import Tuning  # loads torch

console = Console()


@contextmanager
def steps(what: str) -> Iterator[Advance]:
    """Show the step that a long command is at; without a terminal, a line every ten seconds."""
    last_s = time.monotonic()
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)

        def advance(step: str) -> None:
            nonlocal last_s
            bar.update(task, description=f"{what}: {step}")
            if not console.is_terminal and time.monotonic() - last_s > 10.0:
                console.print(f"{what}: {step}")
                last_s = time.monotonic()

        yield advance


def show_profile(profile: Profile) -> None:
    """Print latency and accuracy by level."""
    for name, encoder in profile.encoders.items():
        longest = max(cell.length for cell in encoder.latency)
        batches = sorted({cell.batch for cell in encoder.latency})
        table = Table(title=f"{name}: median ms of a batch of {longest} tokens, by level", title_justify="left")
        for column in ("gamma", *(f"batch {batch}" for batch in batches), "samples/s"):
            table.add_column(column, justify="right")
        for level in encoder.levels:
            row = {cell.batch: cell for cell in encoder.latency if (cell.gamma, cell.length) == (level.gamma, longest)}
            best = max(1000.0 * batch / cell.p50_ms for batch, cell in row.items())
            table.add_row(str(level.gamma), *(f"{row[batch].p50_ms:.1f}" for batch in batches), f"{best:.0f}")
        console.print(table)
    _show_accuracy(profile)


def _show_accuracy(profile: Profile) -> None:
    table = Table(title="accuracy on held-out samples", title_justify="left")
    for column in ("task", "gamma", "accuracy", "95 % interval", "n"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in profile.tasks.items():
        points = [(str(point.gamma), point) for point in task.accuracy]
        if task.cascade is not None:
            small = [(f"small model {i}", one) for i, one in enumerate(task.cascade.small)]
            points += [
                (f"{name}, AURC {one.aurc:.3f}", one.accuracy) for name, one in small if one.accuracy is not None
            ]
        for gamma, point in points:
            table.add_row(name, gamma, *_figures(point))
    console.print(table)


def _figures(point: Accuracy) -> tuple[str, str, str]:
    return f"{point.accuracy:.1%}", f"{point.low:.1%} … {point.high:.1%}", str(point.n)


def show_tuning(tuning: Tuning) -> None:
    """Print the accuracy of the prompts by level beside the plain level's and the control's."""
    title = f"{tuning.task}: trained on {tuning.n_train} samples, judged on others"
    table = Table(title=title, title_justify="left")
    for column in ("variant", "gamma", "trained numbers", "accuracy", "95 % interval", "n"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    table.add_row("as it is", "0", "0", *_figures(tuning.plain))
    for name, trained in (("prompts", tuning.prompts), ("control: low rank, merged", tuning.control)):
        for point in trained.accuracy:
            table.add_row(name, str(point.gamma), str(trained.parameters), *_figures(point))
    console.print(table)
    for point in tuning.losses():
        console.print(
            f"warning: at level {point.gamma} the prompts do worse than none ({point.accuracy:.1%}, level 0 has "
            f"{tuning.plain.low:.1%} at least); give them more samples or epochs, or leave them out"
        )


def show_plan(plan: Plan) -> None:
    """Print what each task will be served by."""
    table = Table(title="plan", title_justify="left")
    for column in ("task", "levels", "deadline", "small models answer at"):
        table.add_column(column)
    for name, task in plan.tasks.items():
        scheduler = plan.schedulers[task.scheduler]
        gammas = ", ".join(str(point.gamma) for point in scheduler.tasks[name].accuracy)
        cascade = plan.cascades.get(task.entry)
        small = cascade.small if cascade is not None else ()
        sure = ", ".join(f"confidence ≥ {one.threshold:.3g}" for one in small) or "–"
        table.add_row(name, gammas, f"{scheduler.tasks[name].slo_ms:g} ms", sure)
    console.print(table)
    for note in plan.notes:
        console.print(note)


def show_replay(summary: Summary) -> None:
    """Print what became of a replay's requests."""
    table = Table(title=f"{summary.requests} requests", title_justify="left", show_header=False)
    table.add_row("utility (right and in time)", f"{summary.utility:.0f}")
    table.add_row("answered in time", f"{summary.on_time:.1%}")
    table.add_row("accuracy of these", f"{summary.accuracy:.1%}")
    table.add_row("latency p50, p99", f"{summary.p50_ms:.1f} ms, {summary.p99_ms:.1f} ms")
    table.add_row("rejected: no level in time", f"{summary.dropped:.1%}")
    table.add_row("failed", f"{summary.failed}")
    table.add_row("answers by level γ", ", ".join(f"{gamma}: {count}" for gamma, count in summary.gammas.items()))
    table.add_row("sent late by this client, p99", f"{summary.lag_p99_ms:.1f} ms")
    console.print(table)
