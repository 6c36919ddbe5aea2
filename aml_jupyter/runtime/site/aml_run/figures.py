"""The matplotlib backend of runs (`module://aml_run.figures`): what is shown appears in the notebook."""

import io

from matplotlib import _pylab_helpers
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from aml_run import show as _show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from matplotlib.figure import Figure

FigureCanvas = FigureCanvasAgg
_shown: "list[Figure]" = []  # figures that a cell has shown by itself, as its last expression or by display()


class FigureManager(FigureManagerBase):
    """A figure on its own: `figure.show()` shows it."""

    def show(self):
        """Show this figure now."""
        _publish(self.canvas.figure)


# pyplot asks the class for it, which is matplotlib's own
FigureCanvas.manager_class = FigureManager  # type: ignore[assignment, method-assign]  # a classproperty


def new_figure_manager(num, *args, FigureClass=None, **kwargs):  # noqa: N803 - the name is matplotlib's
    """Make a figure and its manager, for pyplot."""
    if FigureClass is None:
        from matplotlib.figure import Figure as FigureClass
    return new_figure_manager_given_figure(num, FigureClass(*args, **kwargs))


def new_figure_manager_given_figure(num, figure):
    """Make the manager of a figure, for pyplot."""
    return FigureManager(FigureCanvasAgg(figure), num)


def draw_if_interactive():
    """Do nothing: a figure is drawn when it is shown."""


def png(figure):
    """A figure as PNG bytes, cut to what is drawn."""
    _shown.append(figure)
    if not figure.axes and not figure.lines and not figure.patches and not figure.texts:
        bbox = None
    else:
        bbox = "tight"
    file = io.BytesIO()
    if figure.canvas is None:
        FigureCanvasAgg(figure)
    colour = figure.get_facecolor()
    figure.savefig(file, format="png", dpi=figure.dpi, bbox_inches=bbox, facecolor=colour, edgecolor="none")
    return file.getvalue()


def _publish(figure):
    _show.publish({"image/png": png(figure), "text/plain": repr(figure)})


def show(*_args, **_kwargs):
    """Show every open figure, in order, and close them; `pyplot.show()`."""
    for manager in _pylab_helpers.Gcf.get_all_fig_managers():
        _publish(manager.canvas.figure)
    _pylab_helpers.Gcf.destroy_all()


def flush():
    """At the end of a cell: show the open figures that it has not shown by itself."""
    for manager in _pylab_helpers.Gcf.get_all_fig_managers():
        if isinstance(manager, FigureManager) and not any(manager.canvas.figure is one for one in _shown):
            _publish(manager.canvas.figure)
    _pylab_helpers.Gcf.destroy_all()
    del _shown[:]
