"""Do three 3x3 layers beat one 7x7 layer that sees the same 7x7 of its input?

The answer of the VGG paper and of the course notes is yes: with C channels throughout, three
3x3 layers hold 27 C^2 weights against 49 C^2 and put two more non-linearities between. Two
controls take that answer apart: the same three layers without the non-linearities between (is
it depth or ReLU?), and three layers widened to the parameters of the 7x7 (is it the budget?).

So there are three notions of equality. The receptive field is equal in all arms; parameters and
MACs are equal, but for whole filters, in the widened one, since at one resolution a weight of the
stack is used equally often in all arms.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015, section 2.3.
"""

from typing import Literal

from cnnjax import receptive_field
from cnnjax.analysis import Account, WidthMatch, account, match_width
from cnnjax.models import StackNet
from experiments.config import Config
from experiments.studies.arms import Arm, Order, Study, Task, compute_dtype, untuned

__all__ = ["stack_vs_large_kernel"]


def stack_vs_large_kernel(config: Config, task: Task) -> Study:
    """Arms of equal receptive field in one small ConvNet; see the module's text."""
    channels = config.channels

    def net(windows: tuple[int, ...], inner: int = channels, nonlinear: bool = True) -> StackNet:
        widths = (inner,) * (len(windows) - 1) + (channels,)
        dtype = compute_dtype(config)
        return StackNet(task.num_classes, channels, windows, widths, nonlinear, dtype)

    def widened(match: Literal["parameters", "macs"]) -> WidthMatch:
        return match_width(
            lambda inner: net((3, 3, 3), inner), task.image_shape, net((7,)), match=match
        )

    wide, at_macs = widened("parameters"), widened("macs")
    # The same width but where biases tip the scales.
    macs = f"; its MACs at {at_macs.width} wide, {at_macs.error:+.1%}"

    def arm(name: str, title: str, differs_in: str, module: StackNet, published: Order = "") -> Arm:
        columns = _columns(account(module, task.image_shape), module, task)
        return Arm(name, title, differs_in, module, columns, published=published)

    return Study(
        name="stack_vs_large_kernel",
        question="Do three 3x3 layers beat one 7x7 layer that sees the same 7x7 of its input?",
        baseline="one_7x7",
        headline_arm="three_3x3",
        arms=(
            arm("one_7x7", "one 7x7", "the baseline", net((7,))),
            arm("5x5_then_3x3", "5x5 then 3x3", "two layers instead of one", net((5, 3))),
            arm("three_3x3", "three 3x3", "three layers instead of one", net((3, 3, 3)), "higher"),
            arm(
                "three_3x3_linear",
                "three 3x3, no ReLU between",
                "three layers that compute one linear map: depth without non-linearity",
                net((3, 3, 3), nonlinear=False),
            ),
            arm(
                "three_3x3_wide",
                f"three 3x3, {wide.width} wide",
                f"three layers widened to the parameters of the 7x7 ({wide.error:+.1%}{macs})",
                net((3, 3, 3), inner=wide.width),
            ),
        ),
        limits=(
            *untuned(config),
            "One small network, one data set, one length of training: what wins here need not "
            "win at depth or after long training.",
        ),
        published="Simonyan and Zisserman (2015), ImageNet: with 5x5 layers in place of pairs of "
        "3x3 ones, at equal receptive field, the error is 7 points higher.",
    )


def _columns(costs: Account, module: StackNet, task: Task) -> dict[str, int | float | str]:
    stack = [row for row in costs.rows if "/stack/" in row.path]
    field = receptive_field.compose(
        receptive_field.Layer(row.window[0], row.stride[0], row.padding[0][0], row.dilation[0])
        for row in stack
    )
    return {
        "receptive_field": field.size,
        # Of the layers within; the last always hands on as many as the stack received.
        "channels": module.widths[0],
        "layers": len(stack),
        "parameters": costs.parameters,
        "macs": costs.macs,
        "activation_values": costs.activation_values,
        "steps": task.num_steps,
    }
