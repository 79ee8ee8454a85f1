"""Can the mean of each feature map replace the dense layers at the top of a network?

AlexNet and VGG flatten the last feature maps into two dense hidden layers, which hold most of
their parameters and overfit without dropout. Network in network and GoogLeNet take the mean of
each map, which has no parameters, and one layer of scores. Between them stands flattening into the
scores at once, which is what Network in network is compared with. The mean saves parameters;
whether it would lose or win at equal ones is asked of a body that is widened until it holds what
two hidden layers held.

Source: Lin, Chen and Yan, "Network in Network", 2013, section 3.2 and table 5; Szegedy et al.,
"Going Deeper with Convolutions", 2015; Krizhevsky, Sutskever and Hinton, 2012, for the dense head.
"""

from cnnjax.analysis import match_width
from cnnjax.pattern import PatternNet
from experiments.config import Config
from experiments.studies import nets
from experiments.studies.arms import Arm, Order, Study, Task, untuned

__all__ = ["head"]


def head(config: Config, task: Task) -> Study:
    """Three layers under different heads; see the module's text."""
    hidden = config.hidden

    def net(top: str, channels: int = config.channels) -> PatternNet:
        return nets.of_pattern(
            config, task, f"{_body(channels)} -> {top}" if top else _body(channels)
        )

    two_hidden = net(f"[FC-{hidden} -> RELU]*2")
    wide = match_width(lambda channels: net("GAP", channels), task.image_shape, two_hidden)

    def arm(
        name: str,
        title: str,
        differs_in: str,
        module: PatternNet,
        width: int = config.channels,
        against: str = "two_hidden",
        published: Order = "",
    ) -> Arm:
        columns = nets.columns(module, task, channels=width)
        return Arm(name, title, differs_in, module, columns, against=against, published=published)

    return Study(
        name="head",
        question="Can the mean of each feature map replace the dense layers at the top of a "
        "network?",
        baseline="two_hidden",
        headline_arm="mean",
        arms=(
            arm("two_hidden", f"two dense layers of {hidden}", "the baseline", two_hidden),
            arm(
                "two_hidden_dropout",
                f"two dense layers of {hidden}, dropout",
                "half of the values that the dense layers take dropped while training, as in "
                "AlexNet and VGG",
                net(f"[DROPOUT0.5 -> FC-{hidden} -> RELU]*2"),
            ),
            arm("flattened", "scores from all positions", "no hidden layers in the head", net("")),
            arm(
                "flattened_dropout",
                "scores from all positions, dropout",
                "half of the values that the scores are made of dropped while training",
                net("DROPOUT0.5"),
                against="flattened",
                published="higher",
            ),
            arm(
                "mean",
                "scores from means",
                "means over positions in place of all positions",
                net("GAP"),
                against="flattened",
                published="higher",
            ),
            arm(
                "mean_wide",
                f"scores from means, body {wide.width} wide",
                f"means, and the body widened to the parameters of the dense layers "
                f"({wide.error:+.1%})",
                net("GAP", wide.width),
                wide.width,
            ),
        ),
        limits=(
            *untuned(config),
            "The body is equal in all arms but the widened one, which is equal in parameters and "
            "takes many times the MACs: convolutions use a parameter at each position.",
            "Heads of few parameters gain where training images are few; how many there are "
            "decides the answer as much as the head does.",
            "One small body whose last field does not see the whole image, so that the dense "
            "layers alone can combine what lies far apart; deeper bodies do so themselves.",
        ),
        published="Lin et al. (2013), CIFAR-10: 11.59 % error with scores from all positions, "
        "10.88 % with dropout before them, 10.41 % with means.",
    )


def _body(channels: int) -> str:
    """Three convolutions, the image halved behind each; odd sizes keep their last pixel."""
    return " -> ".join(
        f"CONV3-{factor * channels} -> BN -> RELU -> POOL2[fit=ceil]" for factor in (1, 2, 4)
    )
