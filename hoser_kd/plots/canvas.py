"""What all figures share: colors, axes, legends, PNG export."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


COLORS = {"real": "#4d4d4d", "vanilla": "#E69F00", "distilled": "#0072B2", "teacher": "#009E73"}
SPARE = ("#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#999999")
INK = "#333333"
FAINT = "#d4d4d4"


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return the figure as PNG; equal figures give equal bytes."""
    figure.set_dpi(dpi)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    # `savefig` would draw a figure that had a layout once more, without output
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def color_of(name: str) -> str:
    """Return the color of a set of trips or a kind of model; other names share the `SPARE` colors."""
    for known, color in COLORS.items():
        if name.lower().startswith(known):
            return color
    return SPARE[sum(map(ord, name)) % len(SPARE)]


def sequential() -> Colormap:
    """Return the color scale of all maps."""
    return colormaps["cividis_r"]


def plain_axes(axes: Axes) -> None:
    """Style axes: no frame at the top and right, soft ticks, a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(visible=True, color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)


def share_axis(axes: Axes) -> None:
    """Label the vertical axis in percent, with ticks at round values."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if axes.get_ylim()[1] > 0.05 else None))


def bar_below(figure: Figure, panels: Sequence[Axes], colors: ScalarMappable, label: str, **options: Any) -> Any:
    """Add a color bar below the maps and return it."""
    bar = figure.colorbar(
        colors, ax=list(panels), orientation="horizontal", fraction=0.05, pad=0.02, aspect=40, shrink=0.6, **options
    )
    bar.set_label(label, size=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(FAINT)
    return bar


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Add a legend below the figure, in as many columns as fit its width."""
    if handles:
        widest = max(len(handle.get_label()) for handle in handles) * 0.075 + 0.55  # inches at this font size
        columns = int(np.clip(figure.get_figwidth() // widest, 1, len(handles)))
        rows = -(-len(handles) // columns)
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=-(-len(handles) // rows),
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
        )
