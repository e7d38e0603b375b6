"""Write the page of the experiment, docs/results.md, and its plots from docs/results/<city>.json.

    python benchmarks/results_page.py

The interpretation at the top of the page is written by hand in docs/results/reading.md; the rest is generated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hoser_kd.plots import COLORS, png

DOCS = Path(__file__).resolve().parent.parent / "docs"
METRICS = {
    "next_step.accuracy": ("next-step accuracy", "higher"),
    "next_step.decision_accuracy": ("accuracy where there is a choice", "higher"),
    "next_step.nll": ("next-step NLL, nats", "lower"),
    "next_step.calibration_error": ("calibration error", "lower"),
    "next_step.time_mae_s": ("time error, s", "lower"),
    "next_step.teacher_agreement": ("agreement with the teacher", ""),
    "distance.jsd": ("distance JSD", "lower"),
    "duration.jsd": ("duration JSD", "lower"),
    "radius.jsd": ("radius JSD", "lower"),
    "similarity.hausdorff": ("Hausdorff, km", "lower"),
    "similarity.dtw": ("DTW, km", "lower"),
    "similarity.edr": ("EDR", "lower"),
    "requests.reached_share": ("trips that arrive", "higher"),
}
PLOTTED = (
    "next_step.nll",
    "next_step.decision_accuracy",
    "next_step.calibration_error",
    "similarity.dtw",
    "distance.jsd",
)
VANILLA, DISTILLED, TEACHER = (COLORS[who] for who in ("vanilla", "distilled", "teacher"))


def shares_of(results: dict[str, Any]) -> dict[float, dict[str, Any]]:
    """Return the comparisons by share of the training trips, the largest first."""
    shares = {float(name.split()[1]): value for name, value in results.items() if name.startswith("fraction")}
    return dict(sorted(shares.items(), reverse=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def search_plot(results: dict[str, Any]) -> Figure:
    """Plot validation NLL against lambda, one panel per share of the trips."""
    shares = shares_of(results)
    figure = Figure(figsize=(3.6 * len(shares), 3.2), layout="constrained")
    for axes, (share, part) in zip(np.atleast_1d(figure.subplots(1, len(shares))), shares.items(), strict=True):
        vanilla = next(row for row in part["search"] if not row["lambda_kl"])
        tried = [row for row in part["search"] if row["lambda_kl"]]
        for number, (temperature, sharing) in enumerate(
            dict.fromkeys((row["temperature"], row["shared_cells"]) for row in tried)
        ):
            rows = sorted(
                (row for row in tried if (row["temperature"], row["shared_cells"]) == (temperature, sharing)),
                key=lambda row: row["lambda_kl"],
            )
            axes.plot(
                [row["lambda_kl"] for row in rows],
                [row["val_nll"] for row in rows],
                "osD^v<>"[number % 7] + "-",
                ms=5,
                lw=1,
                alpha=0.8,
                label=f"tau {temperature:g}, {sharing}",
            )
        axes.axhline(vanilla["val_nll"], color=VANILLA, lw=1.5, label="vanilla")
        axes.set(xscale="log", xlabel="lambda", title=f"{share:.0%} of the trips")
        axes.legend(fontsize=6.5, frameon=False)
    figure.axes[0].set_ylabel("validation NLL, nats")
    return figure


def differences_plot(results: dict[str, Any]) -> Figure:
    """Plot distilled − vanilla per seed and the interval of the mean, one panel per metric."""
    shares = shares_of(results)
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(PLOTTED)), PLOTTED, strict=True):
        for place, part in enumerate(shares.values()):
            row = part["metrics"][name]
            each = np.array(row["distilled"]) - np.array(row["vanilla"])
            axes.plot([place] * len(each), each, "o", ms=3, color="#999999")
            axes.errorbar(
                place + 0.15,
                row["difference"],
                fmt="o",
                color=DISTILLED,
                capsize=3,
                ms=5,
                yerr=[[row["difference"] - row["low"]], [row["high"] - row["difference"]]],
            )
        axes.axhline(0, color="#333333", lw=0.8)
        label, better = METRICS[name]
        axes.set_title(f"{label}\n({better} is better)", fontsize=8)
        axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axes.set_xlim(-0.5, len(shares) - 0.5)
        axes.tick_params(labelsize=7)
    figure.supxlabel("share of the training trips", fontsize=8)
    figure.supylabel("distilled − vanilla", fontsize=8)
    return figure


def learnable_plot(results: dict[str, Any]) -> Figure:
    """Plot the test NLL of student, teacher and their mixture by share of the trips."""
    shares = shares_of(results)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for offset, (who, color) in enumerate((("student", VANILLA), ("teacher", TEACHER), ("mixture", DISTILLED))):
        values = [part["learnable"][who]["nll"] for part in shares.values()]
        bars = axes.bar(
            np.arange(len(shares)) + 0.27 * (offset - 1),
            values,
            0.25,
            color=color,
            label={"student": "vanilla student", "teacher": "teacher alone"}.get(who, who),
        )
        axes.bar_label(bars, fmt="%.3f", fontsize=7)
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set(xlabel="share of the training trips", ylabel="test NLL, nats")
    axes.legend(fontsize=7, frameon=False)
    return figure


def resolution_plot(results: dict[str, Any]) -> Figure:
    """Plot labels, teacher and students against the cell size."""
    rows = results["resolution"]
    names = [row["cells"] if row["cells"] == "roads" else f"{row['cells']} m" for row in rows]
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    panels = (
        ("distinguishable choices", [row["distinguishable_share"] for row in rows], TEACHER),
        (
            "teacher's accuracy at choices (test)",
            [row["learnable"]["teacher"]["decision_accuracy"] for row in rows],
            TEACHER,
        ),
        ("NLL, nats", None, None),
    )
    for axes, (title, values, color) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        if values is not None:
            axes.plot(names, values, "o-", color=color)
            continue
        axes.plot(
            names,
            [mean(row["student_val_nll"]) for row in rows],
            "o-",
            color=DISTILLED,
            label="distilled student (val)",
        )
        axes.plot(
            names,
            [row["learnable"]["mixture"]["nll"] for row in rows],
            "s--",
            color=TEACHER,
            label="vanilla + teacher (test)",
        )
        axes.legend(fontsize=7, frameon=False)
    return figure


def city_lines(city: str, results: dict[str, Any]) -> list[str]:
    """Return the tables and plots of a city as Markdown lines."""
    shares = shares_of(results)

    def plot(name: str, figure: Figure, about: str) -> list[str]:
        (DOCS / "figures" / f"results_{city}_{name}.png").write_bytes(png(figure))
        return [f"![{about}](figures/results_{city}_{name}.png)", ""]

    lines = [
        "",
        f"## {city}",
        "",
        "### Distilled − vanilla",
        "",
        *plot("differences", differences_plot(results), "Differences per seed"),
    ]
    for share, part in shares.items():
        chosen, count = part["chosen"], len(part["seeds"])
        lines += [
            f"#### {share:.0%} of the training trips, {count} seeds, test",
            "",
            (
                f"Chosen on validation: lambda {chosen['lambda_kl']:g}, temperature {chosen['temperature']:g}, "
                f"{chosen['shared_cells']}."
            ),
            "",
            "| metric | vanilla | distilled | difference | 95 % interval | |",
            "|---|---|---|---|---|---|",
        ]
        lines += [difference_row(name, row) for name, row in part["metrics"].items()] + [""]
    lines += [
        "### Choice of lambda, temperature and sharing, on validation",
        "",
        *plot("search", search_plot(results), "Validation NLL against lambda"),
    ]
    for share, part in shares.items():
        lines += [
            f"#### {share:.0%} of the training trips",
            "",
            "| lambda | temperature | shared cells | val NLL | val accuracy |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['lambda_kl'] or '–'} | {row['temperature'] or '–'} | {row['shared_cells'] or 'vanilla'} | "
            f"{row['val_nll']:.4f} | {row['val_accuracy']:.4f} |"
            for row in sorted(part["search"], key=lambda row: row["val_nll"])
        ] + [""]
    lines += [
        "### Teacher alone, and mixture of student and teacher",
        "",
        (
            "The teacher alone, and a mixture of the probabilities of vanilla student and teacher. The share is chosen "
            "on validation; the metrics are those of the test trips."
        ),
        "",
        *plot("learnable", learnable_plot(results), "NLL of student, teacher and mixture"),
        "| trips | model | accuracy | at choices | NLL |",
        "|---|---|---|---|---|",
    ]
    for share, part in shares.items():
        mixture = part["learnable"]
        for who, label in (
            ("student", "vanilla student"),
            ("teacher", "teacher alone"),
            ("mixture", f"{1 - mixture['share']:.0%} student + {mixture['share']:.0%} teacher"),
        ):
            row = mixture[who]
            lines.append(
                f"| {share:.0%} | {label} | {row['accuracy']:.4f} | {row['decision_accuracy']:.4f} | {row['nll']:.4f} |"
            )
    return lines + (resolution_lines(results, plot) if "resolution" in results else [])


def resolution_lines(results: dict[str, Any], plot: Any) -> list[str]:
    columns = (
        "cells",
        "tokens",
        "distinguishable choices",
        "teacher's perplexity (val)",
        "teacher at choices (test)",
        "mixture's share of the teacher",
        "mixture NLL (test)",
        "distilled NLL (val)",
        "distilled accuracy (val)",
    )
    seeds = len(results["resolution"][0]["student_val_nll"])
    lines = [
        "",
        "### Cell size",
        "",
        (
            f"A teacher trained at each cell size, up to one token per road, and {seeds} distilled student"
            f"{'s' if seeds > 1 else ''} each, with all trips. Perplexities are per cell and not comparable between "
            "sizes."
        ),
        "",
        *plot("resolution", resolution_plot(results), "Cell size"),
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in results["resolution"]:
        size = row["cells"] if row["cells"] == "roads" else f"{row['cells']} m"
        mixture = row["learnable"]
        lines.append(
            f"| {size} | {row['tokens']:,} | {row['distinguishable_share']:.1%} | {row['teacher_perplexity']:.2f} | "
            f"{mixture['teacher']['decision_accuracy']:.4f} | {mixture['share']:.0%} | "
            f"{mixture['mixture']['nll']:.4f} | {mean(row['student_val_nll']):.4f} | "
            f"{mean(row['student_val_accuracy']):.4f} |"
        )
    return lines


def difference_row(name: str, row: dict[str, Any]) -> str:
    label, better = METRICS.get(name, (name, ""))
    clear = row["low"] > 0 or row["high"] < 0
    word = ("better" if (row["difference"] > 0) == (better == "higher") else "worse") if clear and better else ""
    return (
        f"| {label} | {mean(row['vanilla']):.4f} | {mean(row['distilled']):.4f} | {row['difference']:+.4f} | "
        f"{row['low']:+.4f} to {row['high']:+.4f} | {word} |"
    )


def write_page() -> None:
    """Write docs/results.md from the files in docs/results."""
    reading = DOCS / "results" / "reading.md"
    lines = [
        "# Results: what distillation brings",
        "",
        reading.read_text(encoding="utf-8").strip() if reading.is_file() else "",
        "",
        (
            "*`benchmarks/experiment.py` and `benchmarks/results_page.py` write the tables and plots. Metrics are "
            "means over seeds; differences are distilled − vanilla, paired by seed, with 95 % t intervals. "
            f"{len(METRICS)} metrics are compared for each share, so one interval in twenty excludes zero by chance "
            "alone.*"
        ),
    ]
    for file in sorted((DOCS / "results").glob("*.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if shares_of(results):
            lines += city_lines(file.stem, results)
    (DOCS / "results.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_page()
