"""Groups of operations that XLA hands to the CPU's library of kernels (YNNPACK), as one call each.

Products and convolutions go there alone, reductions with whatever of their neighbourhood the
library knows and nobody else reads; values inside such a group are the library's own affair, and
no part of XLA's figures. The rules are those of `library_rewriter.cc` and `ynn_support.cc`.
"""

from collections import deque

from cnnjax.analysis._graph import Node

# Numbers from which on the library is asked to reduce.
_LIBRARY_NUMBERS = 4096
_LIBRARY_CHANNELS = 16
# Operations and operands at which its groups stop growing.
_LIBRARY_MOST = 100
_LIBRARY_ELEMENTWISE = frozenset(
    """
    abs add add_any ceil convert_element_type cos div erf exp expm1 floor integer_pow log log1p
    logistic max min mul neg pow round rounded rsqrt sign sin sqrt square sub tan tanh
    """.split()  # noqa: SIM905
)
_LIBRARY_DTYPES = frozenset(("float32", "float64", "bfloat16", "int8", "uint8"))
_LIBRARY_OTHERS = frozenset(("broadcast", "transpose", "pad", "iota", "constant", "view"))


class Group:
    """Nodes that run as one, and the one of them that others read."""

    def __init__(self, root: Node, kind: str):
        self.root = root
        self.kind = kind  # "loop", "library" or "alone"
        self.members: list[Node] = [root]
        self.operands: list[Node] = list(dict.fromkeys(root.operands))
        self.readers: list[Node] = []  # The roots of the groups that read it, in XLA's order.


def library_groups(order: dict[Node, int], outputs: set[Node]) -> dict[Node, Group]:
    """For each node that the library computes, its group."""
    place: dict[Node, Group] = {}
    for node in sorted(order, key=order.__getitem__, reverse=True):
        if node not in place and _starts(node):
            group = Group(node, "library")
            place[node] = group
            if node.kind in ("reduce", "reduce_window"):
                while _grow(group, place, outputs):
                    pass
    for group in set(place.values()):
        inside = set(group.members)
        group.members.sort(key=order.__getitem__)
        group.operands = list(
            dict.fromkeys(o for node in group.members for o in node.operands if o not in inside)
        )
    return place


def _starts(node: Node) -> bool:
    if node.kind == "convolution":
        x, out, params = node.operands[0], node, dict(node.params)
        return (
            len(out.shape) == 4
            and str(node.dtype) in ("float32", "float64")
            and max(x.shape[-1], out.shape[-1]) > _LIBRARY_CHANNELS
            and params["lhs_dilation"] == "(1, 1)"
            and params["batch_group_count"] == "1"
        )
    if node.kind == "dot":
        return True
    return node.kind in ("reduce", "reduce_window") and _supported(node)


def _supported(node: Node) -> bool:
    if node.kind in ("convolution", "dot"):
        return _starts(node)
    if node.kind in _LIBRARY_OTHERS:
        return True
    if max([node.size, *(operand.size for operand in node.operands)]) < _LIBRARY_NUMBERS:
        return False
    if node.kind == "reduce":
        return node.name in ("reduce_sum", "reduce_max", "reduce_min")
    if node.kind == "reduce_window":
        params = dict(node.params)
        return bool(params["window_dimensions"] == params["window_strides"])
    return node.name in _LIBRARY_ELEMENTWISE and all(
        str(value.dtype) in _LIBRARY_DTYPES for value in (node, *node.operands)
    )


def _grow(group: Group, place: dict[Node, Group], outputs: set[Node]) -> bool:
    """Take in neighbours once around; whether any was."""
    grown = False
    seen: set[Node] = set(group.members)
    frontier: deque[tuple[Node, str]] = deque()

    def neighbours(node: Node, direction: str) -> None:
        if direction in ("up", "both"):
            for operand in node.operands:
                if (
                    operand not in seen
                    and operand not in outputs
                    and all(place.get(user) is group for user in operand.users)
                ):
                    frontier.append((operand, "up"))
                    seen.add(operand)
        if direction in ("down", "both") and len(node.users) == 1 and node not in outputs:
            (user,) = node.users
            if user not in seen:
                frontier.append((user, "down"))
                seen.add(user)

    for node in list(group.members):
        neighbours(node, "up")
    neighbours(group.root, "down")
    while frontier and _instructions(group) < _LIBRARY_MOST:
        node, direction = frontier.popleft()
        other = place.get(node)
        if other is group:
            continue
        if other is not None:
            if _instructions(group) + _instructions(other) > _LIBRARY_MOST:
                continue
            if direction == "up" and other.root is not node:
                continue
            for member in other.members:
                place[member] = group
            group.members.extend(other.members)
            if direction == "down":
                group.root = other.root
            grown = True
            continue
        if node.kind in ("parameter", "constant", "part", "tuple") or not _supported(node):
            continue
        place[node] = group
        group.members.append(node)
        if direction == "down":
            group.root = node
        neighbours(node, direction)
        grown = True
    return grown


def _instructions(group: Group) -> int:
    inside = set(group.members)
    return len(inside | {operand for node in group.members for operand in node.operands})
