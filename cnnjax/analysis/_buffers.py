"""When groups run, how long their values live, and the room that they share."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from cnnjax.analysis._graph import Node, Program
from cnnjax.analysis._library import Group

# XLA aligns its buffers to this many bytes on a CPU.
_ALIGNMENT = 64


@dataclass(eq=False)
class Buffer:
    """Memory from the step that writes it to the last that reads it."""

    node: Node
    size: int
    start: int
    end: float
    group: Group
    place: int
    is_output: bool = False
    tenants: list["Buffer"] = field(default_factory=list)
    taken_over: "Buffer | None" = None


def schedule(program: Program, groups: list[Group], breadth_first: bool) -> list[Group]:
    """The order in which groups run.

    XLA's CPU backend runs what is ready in the order in which it became so, which keeps its
    threads busy and holds values longer than need be; other backends keep nearer to the program's
    own order.
    """
    if not breadth_first:
        place = {node: number for number, node in enumerate(program.nodes)}
        return sorted(groups, key=lambda group: place[group.root])
    by_root = {group.root: group for group in groups}
    waiting = {group.root: len(group.operands) for group in groups}
    inputs = [node for node in program.inputs if node in by_root]
    rest = [g.root for g in groups if not g.operands and g.root.kind != "parameter"]
    ready = deque([*inputs, *rest])
    order = []
    while ready:
        root = ready.popleft()
        order.append(by_root[root])
        for reader in by_root[root].readers:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return order


def buffers(program: Program, groups: list[Group], order: list[Group]) -> list[Buffer]:
    """The buffer of each group, in the order in which they are written."""
    place = {group.root: number for number, group in enumerate(groups)}
    step = {group.root: number for number, group in enumerate(order)}
    ends = dict(step)
    outputs = set(program.outputs)
    for group in order:
        for operand in group.operands:
            ends[operand] = max(ends[operand], step[group.root])
    for group in reversed(order):
        if _is_view(group):
            (source, *_) = group.operands
            ends[source] = max(ends[source], ends[group.root])
            if group.root in outputs:
                outputs.add(source)
    found: list[Buffer] = []
    last = len(order)
    for group in order:
        node = group.root
        if node.kind in ("parameter", "constant", "barrier") or _is_view(group):
            continue
        if node.kind == "tuple":
            if node.scratch:
                found.append(Buffer(node, node.scratch, step[node], step[node], group, place[node]))
            continue
        start = step[node.operands[0]] if node.kind == "part" else step[node]
        is_output = node in outputs
        end = last if is_output else ends[node]
        found.append(Buffer(node, node.bytes, start, end, group, place[node], is_output))
    return found


def _is_view(group: Group) -> bool:
    return group.root.kind == "alias" or (group.root.kind == "view" and group.kind == "alone")


def share(found: list[Buffer]) -> None:
    """Let values be written where an operand dies, and small ones where outputs will be."""
    by_node = {buffer.node: buffer for buffer in found}
    for buffer in found:
        for operand in _in_step(buffer.group):
            other = by_node.get(operand)
            if (
                other is not None
                and not other.is_output
                and other.size == buffer.size
                and other.end == buffer.start
                and other.node.kind != "tuple"
            ):
                other.end = buffer.start - 0.5
                buffer.taken_over = other
                break


def _in_step(group: Group) -> list[Node]:
    """Operands each of whose numbers is read just when the one in its place is written."""
    if group.kind == "library":
        return []
    if group.root.kind == "in_place":
        return group.root.operands[:1]
    out_of_step: set[Node] = set()
    for node in group.members:  # Readers come before what they read.
        if node.kind not in ("cheap", "expensive") or node in out_of_step:
            out_of_step.update(node.operands)
    return [operand for operand in group.operands if operand not in out_of_step]


def settle(found: list[Buffer], lend: bool) -> list[Buffer]:
    """The temporaries that find no room in an output's buffer before it is written.

    Outputs are allocated throughout. XLA lends each, largest temporaries first, to those of at
    most its size that live at other times. What a loop hands on is not lent (`lend`).
    """
    outputs = sorted((b for b in found if b.is_output and lend), key=lambda b: (b.size, -b.place))
    rest = []
    for buffer in sorted((b for b in found if not b.is_output), key=lambda b: (-b.size, b.place)):
        if buffer.size == 0:
            continue
        for output in outputs:
            if output.size >= buffer.size and all(
                _apart(buffer, tenant) for tenant in (output, *output.tenants)
            ):
                output.tenants.append(buffer)
                break
        else:
            rest.append(buffer)
    return rest


def _apart(a: Buffer, b: Buffer) -> bool:
    return a.end < b.start or b.end < a.start


def living_at_peak(rest: list[Buffer]) -> list[Buffer]:
    """The temporaries alive when most bytes are, the largest first."""
    changes = np.zeros(max((int(b.end) for b in rest), default=0) + 2, np.int64)
    for buffer in rest:
        changes[buffer.start] += buffer.size
        changes[max(int(buffer.end), buffer.start) + 1] -= buffer.size
    when = int(np.argmax(np.cumsum(changes)))
    living = [buffer for buffer in rest if buffer.start <= when <= max(buffer.end, buffer.start)]
    return sorted(living, key=lambda buffer: (-buffer.size, buffer.place))


def pack(rest: list[Buffer]) -> int:
    """Bytes of the one block that holds all temporaries, gaps between them included.

    As in XLA, the largest first, each into the smallest gap that it fits for as long as it lives;
    once by size and once by length of life, of which the better holds.
    """
    blocks: dict[Buffer, list[Buffer]] = {}
    inside = set(rest)
    first: dict[Buffer, Buffer] = {}
    for buffer in sorted(rest, key=lambda b: b.start):
        before = buffer.taken_over
        first[buffer] = first[before] if before in inside and before in first else buffer
        blocks.setdefault(first[buffer], []).append(buffer)
    lives = [
        (block.size, block.start, max(b.end for b in group), np.ceil(block.end), block.place)
        for block, group in blocks.items()
    ]
    by_size = sorted(lives, key=lambda b: (-b[0], b[1] - b[3], b[4]))
    by_life = sorted(lives, key=lambda b: (b[1] - b[2], -b[0], b[4]))
    return min(_heap(by_size), _heap(by_life))


def _heap(lives: list[tuple]) -> int:
    offsets = np.zeros(len(lives), np.int64)
    sizes = np.array([-(-size // _ALIGNMENT) * _ALIGNMENT for size, *_ in lives], np.int64)
    starts = np.array([start for _, start, *_ in lives])
    ends = np.array([end for _, _, end, *_ in lives])
    for i in range(len(lives)):
        near = (starts[:i] <= ends[i]) & (ends[:i] >= starts[i])
        low = offsets[:i][near]
        high = low + sizes[:i][near]
        order = np.argsort(low)
        floor = np.concatenate([[0], np.maximum.accumulate(high[order])])
        gaps = np.append(low[order] - floor[:-1], np.iinfo(np.int64).max)
        fits = np.flatnonzero(gaps >= sizes[i])
        offsets[i] = floor[fits[np.argmin(gaps[fits])]]
    return int((offsets + sizes).max(initial=0))
