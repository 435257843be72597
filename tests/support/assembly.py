"""Inner loops in AArch64 assembly, in the syntax of Linux and Windows (fmla v0.4s) and of macOS (fmla.4s v0)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_CONDITIONAL = re.compile(r"b\.?(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)|cbn?z|tbn?z")
_FRAME = "sp", "x29"  # the stack pointer and the frame pointer


@dataclass(frozen=True)
class Instruction:
    """An instruction, whose mnemonic has no suffix for the lanes."""

    mnemonic: str
    operands: str
    on_vectors: bool  # whether the first operand is a vector of four floats

    @property
    def jumps(self) -> bool:
        """Whether the instruction is a branch, other than a call, a return or a jump to an address in a register."""
        return self.mnemonic == "b" or _CONDITIONAL.fullmatch(self.mnemonic) is not None

    @property
    def target(self) -> str:
        """The label that a branch jumps to."""
        return self.operands.split(",")[-1].strip()

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction in the text can run next."""
        return self.mnemonic not in ("b", "br", "ret")

    @property
    def loaded(self) -> int:
        """The number of vector registers that the instruction loads, from any address."""
        if not self.mnemonic.startswith("ld"):
            return 0
        registers = self.operands.split("[x")[0].split("[sp")[0]
        if span := re.search(r"v(\d+)\S* *- *v(\d+)", registers):  # { v30.4s - v1.4s }
            return (int(span[2]) - int(span[1])) % 32 + 1
        return len(re.findall(r"\b[bhsdqv]\d+", registers))

    def touches(self, bases: Collection[str]) -> bool:
        """Whether the instruction loads from an address relative to one of the registers, or stores to it."""
        base = re.search(r"\[(x\d+|sp)\b", self.operands)
        return self.mnemonic.startswith(("ld", "st")) and base is not None and base[1] in bases


@dataclass(frozen=True)
class Loop:
    """A loop: the instructions of all branches of its body, and its spills.

    Spills are loads and stores relative to sp or to the frame pointer. A spill through another register is counted by
    `loads` only.
    """

    body: list[Instruction]
    spills: list[Instruction]

    def count(self, mnemonics: Collection[str]) -> int:
        """The number of instructions on vectors of four floats that have one of the mnemonics."""
        return sum(i.on_vectors and i.mnemonic in mnemonics for i in self.body)

    @property
    def loads(self) -> int:
        """The number of vector registers that the loop's body loads."""
        return sum(i.loaded for i in self.body)


class Function:
    """A function's control flow graph: basic blocks, and for each block the blocks that can run next."""

    def __init__(self, lines: list[str]) -> None:
        self._blocks: list[list[Instruction]] = [[]]
        labels: dict[str, int] = {}
        for line in lines:
            if line.endswith(":"):
                if self._blocks[-1]:
                    self._blocks.append([])
                labels[line[:-1]] = len(self._blocks) - 1
            else:
                self._blocks[-1].append(_instruction(line))
                if self._blocks[-1][-1].jumps or not self._blocks[-1][-1].falls_through:
                    self._blocks.append([])
        self._next: list[set[int]] = []
        for number, block in enumerate(self._blocks):
            last = block[-1] if block else None
            after = {labels[last.target]} if last and last.jumps and last.target in labels else set()
            if number + 1 < len(self._blocks) and (last is None or last.falls_through):
                after.add(number + 1)
            self._next.append(after)
        has_frame_pointer = any(re.match(r"(mov|add)\s+x29, *sp\b", line) for line in lines)
        self._frame = _FRAME if has_frame_pointer else _FRAME[:1]

    def inner_loops(self, mnemonics: Collection[str]) -> list[Loop]:
        """The loops that use the mnemonics on vectors, and in which no other loop does."""
        return list(self._inner_loops(set(range(len(self._blocks))), mnemonics))

    def _inner_loops(self, among: set[int], mnemonics: Collection[str]) -> Iterator[Loop]:
        for cycle in self._cycles(among):
            body = [i for block in sorted(cycle) for i in self._blocks[block]]
            loop = Loop(body, [i for i in body if i.touches(self._frame)])
            if loop.count(mnemonics):
                # A loop without its header is no loop, but the loops inside it remain.
                entries = cycle & {after for b, nexts in enumerate(self._next) if b not in cycle for after in nexts}
                inside = list(self._inner_loops(cycle - {min(entries, default=min(cycle))}, mnemonics))
                yield from inside or [loop]

    def _cycles(self, among: set[int]) -> Iterator[set[int]]:
        """The largest sets of blocks in which each block can follow every block, itself included."""
        following = {block: self._following(block, among) for block in among}
        done: set[int] = set()
        for block in sorted(among):
            if block in following[block] and block not in done:
                cycle = {other for other in following[block] if block in following[other]}
                done |= cycle
                yield cycle

    def _following(self, block: int, among: set[int]) -> set[int]:
        """The blocks that can run at any time after a block."""
        found: set[int] = set()
        left = [block]
        while left:
            new = (self._next[left.pop()] & among) - found
            found |= new
            left += new
        return found


def functions(text: str) -> dict[str, list[Function]]:
    """The functions by name. A list has several functions if the compiler split or copied one."""
    is_mach_o = ".subsections_via_symbols" in text
    name = re.compile(r"_([A-Za-z_]\w*)[\w.]*:" if is_mach_o else r"([A-Za-z_]\w*)[\w.]*:")
    found: dict[str, list[list[str]]] = defaultdict(list)
    lines: list[str] = []
    for line in text.splitlines():
        code = re.sub(r"(//|;).*", "", line).strip()
        if match := name.fullmatch(code):
            lines = []
            found[match[1]].append(lines)
        elif code.endswith(":") or re.match("[a-z]", code):  # no directive
            lines.append(code)
    return {function: [Function(part) for part in parts] for function, parts in found.items()}


def _instruction(line: str) -> Instruction:
    mnemonic, _, operands = re.sub(r"\s+", " ", line).partition(" ")
    lanes = ""
    if not _CONDITIONAL.fullmatch(mnemonic):
        mnemonic, _, lanes = mnemonic.partition(".")
    return Instruction(mnemonic, operands, lanes == "4s" or re.match(r"v\d+\.4s", operands) is not None)
