"""What XLA computes together, so that values in between take no memory.

Two passes, as in XLA's CPU backend: its library of kernels (YNNPACK) grows groups around
reductions, then loop fusion merges what is computed number by number into its readers, computing
it anew for each when that is cheap. The rules are those of `library_rewriter.cc`,
`instruction_fusion.cc` and `cpu_instruction_fusion.cc`.
"""

from collections.abc import Iterator

from cnnjax.analysis._graph import Call, Node, Program
from cnnjax.analysis._library import Group, library_groups

_LOOP = frozenset(
    """
    cheap expensive broadcast concatenate slice gather iota pad reduce reverse transpose view
    """.split()  # noqa: SIM905
)
_DEAR = frozenset(("expensive", "gather", "reduce"))
# Kinds whose code is emitted again for each place that reads them in a group.
_EMITTED_AGAIN = frozenset(("concatenate", "pad", "reduce"))
# Copies of an operation within one group up to which XLA fuses.
_MOST_COPIES = 15
_MOST_CONCATENATED = 8
_MOST_REDUCTIONS = 5


def fuse(program: Program, library: bool) -> list[Group]:
    """The groups that run one after another, each after those that it reads, and its operands.

    Args:
      program: the graph.
      library: whether reductions, products and convolutions go to the CPU's library of kernels.
    """
    order = {node: place for place, node in enumerate(_post_order(program))}
    outputs = set(program.outputs)
    in_library = library_groups(order, outputs) if library else {}
    return _Fusion(order, outputs, in_library).run()


def _post_order(program: Program) -> list[Node]:
    """Operands first, depth first from the outputs, as XLA numbers its instructions.

    A called function is gone through as a whole where its first value is needed.
    """
    needed = set(program.nodes)
    done: dict[Node, None] = {}
    entered: set[Call] = set()
    # What is being gone through: a node and what is left to do before it, or a list of nodes.
    stack: list[tuple[Node | None, Iterator[Node]]] = [(None, iter(program.outputs))]
    while stack:
        node, rest = stack[-1]
        following = next((value for value in rest if value in needed and value not in done), None)
        if following is None:
            stack.pop()
            if node is not None:
                done[node] = None
            continue
        call = next((call for call in following.calls if call not in entered), None)
        if call is None:
            stack.append((following, iter(following.operands)))
        else:
            entered.add(call)
            stack.append((None, iter([following])))
            stack.append((None, iter([*call.inputs, *call.outputs])))
    for node in program.inputs:
        done.setdefault(node)
    return list(done)


class _Fusion:
    """Merges producers into readers, from the outputs up, and keeps who reads whom."""

    def __init__(self, order: dict[Node, int], outputs: set[Node], in_library: dict[Node, Group]):
        self.order = order
        self.outputs = outputs
        self.groups: dict[Node, Group] = {}  # by root
        for node in order:
            group = in_library.get(node)
            if group is None:
                self.groups[node] = Group(node, "alone")
            elif group.root is node:
                self.groups[node] = group
        # Readers by the roots of their groups.
        self.users: dict[Node, list[Node]] = {root: [] for root in self.groups}
        for root, group in self.groups.items():
            for operand in group.operands:
                self.users[operand].append(root)
        self.kept = self._kept()

    def run(self) -> list[Group]:
        queue = sorted(self.groups, key=self.order.__getitem__)
        while queue:
            root = queue.pop()
            group = self.groups.get(root)
            if group is None or group.kind == "library" or root.kind not in _LOOP:
                continue
            self._fuse_into(group)
        for root, group in self.groups.items():
            group.readers = self.users[root]
        return sorted(self.groups.values(), key=lambda group: self.order[group.root])

    def _fuse_into(self, group: Group) -> None:
        reused = _reused(group.root)
        indexing = _Indexing(group.root)
        while True:
            ready = sorted(group.operands, key=self.order.__getitem__, reverse=True)
            producer = next((o for o in ready if self._fuses(o, group, reused, indexing)), None)
            if producer is None:
                return
            if producer in reused:
                reused.discard(producer)
                reused.update(producer.operands)
            reused.update(_reused(producer))
            indexing.add(producer)
            group.members.append(producer)
            group.kind = "loop"
            group.operands.remove(producer)
            for operand in producer.operands:
                if operand not in group.operands:
                    group.operands.append(operand)
                if group.root not in self.users[operand]:
                    self.users[operand].append(group.root)
            _remove(self.users[producer], group.root)
            if not self.users[producer] and producer not in self.outputs:
                for operand in self.groups[producer].operands:
                    _remove(self.users[operand], producer)
                del self.groups[producer]
                del self.users[producer]

    def _fuses(
        self, producer: Node, group: Group, reused: set[Node], indexing: "_Indexing"
    ) -> bool:
        if producer in self.kept or not self._loop_fusible(producer, group.root):
            return False
        if producer.kind in _DEAR:
            if producer in reused:
                return False
            alone = len(self.users[producer]) == 1 and producer not in self.outputs
            if not alone:
                return False
        reductions = sum(node.kind == "reduce" for node in group.members)
        if producer.kind == "reduce" and reductions > _MOST_REDUCTIONS:
            return False
        copies = indexing.copies(producer)
        if producer.kind == "broadcast" or (
            # A transpose is two operations, its reordering and its copy, that run as one.
            len(group.members) == 1 and group.root.kind != "transpose"
        ):
            return True
        again = producer.kind in _EMITTED_AGAIN and (copies > 1 or len(self.users[producer]) > 1)
        return copies <= _MOST_COPIES and not again

    def _loop_fusible(self, producer: Node, consumer: Node) -> bool:
        """Whether the kinds and shapes allow one to be computed inside the other."""
        group = self.groups[producer]
        if producer in self.outputs or group.kind == "library" or producer.kind not in _LOOP:
            return False
        # A group already made stays: it is fused into from above, not below.
        if consumer.kind not in _LOOP or self.groups[consumer].kind == "library":
            return False
        return not any(
            node.kind == "concatenate" and len(node.operands) > _MOST_CONCATENATED
            for node in (producer, consumer)
        )

    def _kept(self) -> set[Node]:
        """Values with several large operands that not all readers could compute themselves."""
        kept: set[Node] = set()
        cache: dict[tuple[Node, Node], bool] = {}

        def fits(producer: Node, consumer: Node) -> bool:
            """Whether every path from one to the other could be fused."""
            if (producer, consumer) not in cache:
                cache[producer, consumer] = True
                cache[producer, consumer] = (
                    self.groups[consumer].kind != "library"
                    and (consumer.kind in _LOOP)
                    and all(
                        operand is producer
                        or producer not in ancestors(operand)
                        or (
                            operand not in kept
                            and self._loop_fusible(operand, consumer)
                            and fits(producer, operand)
                        )
                        for operand in self.groups[consumer].operands
                    )
                )
            return cache[producer, consumer]

        memo: dict[Node, set[Node]] = {}

        def ancestors(node: Node) -> set[Node]:
            # Only through what could fuse: a path through anything else is found out at once.
            if node not in memo:
                found, pending = set(), [node]
                while pending:
                    current = pending.pop()
                    if current in found:
                        continue
                    found.add(current)
                    if current.kind in _LOOP and self.groups[current].kind != "library":
                        pending.extend(self.groups[current].operands)
                memo[node] = found
            return memo[node]

        for producer in sorted(self.groups, key=self.order.__getitem__, reverse=True):
            group = self.groups[producer]
            if group.kind == "library" or producer.kind not in _LOOP:
                continue
            large = [
                operand
                for operand in producer.operands
                if operand.kind not in ("broadcast", "iota", "constant")
                and _true_rank(operand) >= _true_rank(producer)
            ]
            if len(large) <= 1 or sum(o.size for o in group.operands) <= producer.size:
                continue
            if not all(
                self._loop_fusible(producer, user) and fits(producer, user)
                for user in self.users[producer]
            ):
                kept.add(producer)
        return kept


def _remove(users: list[Node], user: Node) -> None:
    """As XLA does it: the last takes the place of the one that goes, and so runs earlier."""
    place = users.index(user)
    users[place] = users[-1]
    users.pop()


class _Indexing:
    """How often a group's code computes each member: once for each way it is indexed."""

    def __init__(self, root: Node):
        self.indexers: dict[Node, set[Node]] = {root: {root}}
        self.counts: dict[Node, int] = {root: 1}
        self._operands(root)

    def copies(self, node: Node) -> int:
        return sum(self.counts[user] for user in self.indexers[node])

    def add(self, node: Node) -> None:
        self.counts[node] = self.copies(node)
        self._operands(node)

    def _operands(self, node: Node) -> None:
        for operand in node.operands:
            same = node.kind == "transpose" or operand.shape == node.shape
            found = self.indexers[node] if same else {node}
            self.indexers.setdefault(operand, set()).update(found)


def _reused(node: Node) -> set[Node]:
    """Operands of which a number is read more than once."""
    if node.kind == "broadcast":
        return set(node.operands)
    if node.kind in ("pad", "reduce"):
        return set(node.operands[1:])
    return set()


def _true_rank(node: Node) -> int:
    return sum(length > 1 for length in node.shape)
