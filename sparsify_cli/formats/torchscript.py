"""TorchScript archives: parameters and buffers of a scripted or traced module, without running its code.

Such an archive is a zip file with the code of its classes, a pickle of its modules and one member a storage. It always
names code; nothing of it is run here: the pickle is read as data, the code as text, and only numbers change. So no trust
is asked for, unless the pickle names things that torch itself would not put there. Constants of the code
(`constants.pkl`) and tensors that are plain attributes stay what they are. Weights packed for quantized kernels are odd.

Source: torch 2.13, `torch/csrc/jit/docs/serialization.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsify_cli.contracts.format import Format
from sparsify_cli.errors import SparsifyError
from sparsify_cli.values.layout import Layout
from sparsify_cli.values.pickle_tree import read_pickle
from sparsify_cli.values.script_tree import SCRIPT, ScriptClass, classes_in, script_state
from sparsify_cli.values.strict_json import shown
from sparsify_cli.values.torch_layout import told
from sparsify_cli.values.torch_names import require_harmless
from sparsify_cli.values.torch_tables import Contradiction, Extent, Storage, tensor_reader
from sparsify_cli.values.zip_places import Member, check_of, content, members

KIND = "torchscript"
PICKLE = "data.pkl"
PICKLE_LIMIT = 1 << 27
"""Bytes of the pickle of the modules."""
SOURCE_LIMIT = 1 << 25
"""Bytes of one source file; what all may have together is eight times as much."""

TORCHS_OWN = frozenset(
    {
        *(f"torch.jit._pickle.build_{word}" for word in ("intlist", "tensorlist", "doublelist", "boollist", "tensor_from_id")),
        "torch.jit._pickle.restore_type_tag",
        "torch._utils._rebuild_sparse_csr_tensor",
    }
)
"""What torch's pickler names in such archives alone."""


@dataclass(frozen=True)
class Torchscript(Format):
    """TorchScript archives (`.pt`, `.ts`, `.jit`, `.ptl`): weights in place, code never run."""

    def recognises(self, path: Path) -> bool:
        """True for a zip archive with a pickle and code beside it that is no exported program."""
        try:
            return path.is_file() and _starts_as_zip(path) and bool(_root(members(path)))
        except (SparsifyError, OSError):
            return False

    def layout(self, path: Path, *, trust: bool = False) -> Layout:
        """Where every parameter and buffer lies.

        Raises:
            UnreadableFile: truncated, corrupt, contradictory.
            UnsafePickle: the pickle names what no TorchScript archive does, and `trust` is False.
        """
        with told(path):
            return _layout(path, trust=trust)


@dataclass
class _Sources:
    """The classes of an archive, read when they are asked for."""

    path: Path
    root: str
    inside: Mapping[str, Member]
    left: int = 8 * SOURCE_LIMIT
    read: dict[str, dict[str, ScriptClass]] = field(default_factory=dict)

    def class_of(self, name: str) -> ScriptClass:
        """What the source says of a class; of one without source, that every tensor counts."""
        module, _, last = name.rpartition(".")
        if module not in self.read:
            self.read[module] = self._classes(f"{self.root}code/{module.replace('.', '/')}.py")
        return self.read[module].get(last, ScriptClass())

    def _classes(self, name: str) -> dict[str, ScriptClass]:
        member = self.inside.get(name)
        if member is None:
            return {}
        source = content(self.path, member, SOURCE_LIMIT)
        self.left -= len(source)
        if self.left < 0:
            raise Contradiction(f"its code has more than {8 * SOURCE_LIMIT} bytes")
        return classes_in(source.decode(errors="replace"))


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _root(inside: Mapping[str, Member]) -> str:
    """The folder that everything in the archive lies in, with its slash; empty when it is no TorchScript archive."""
    roots = [name.removesuffix(PICKLE) for name in inside if name.endswith(f"/{PICKLE}") and name.count("/") == 1]
    if len(roots) != 1 or f"{roots[0]}archive_format" in inside:
        return ""
    return roots[0] if any(name.startswith(f"{roots[0]}code/") for name in inside) else ""


def _layout(path: Path, *, trust: bool) -> Layout:
    inside = members(path)
    root = _root(inside)
    if not root:
        raise Contradiction("it lacks the code or the pickle of its modules")
    _require_little(path, inside.get(f"{root}byteorder"))
    reading = read_pickle(content(path, inside[f"{root}{PICKLE}"], PICKLE_LIMIT))
    unusual = [name for name in reading.names if not name.startswith(SCRIPT) and name not in TORCHS_OWN]
    foreign = require_harmless(path, unusual, None, trust=trust)
    used: dict[str, Member] = {}
    resolve = tensor_reader(path.name, lambda storage: _extent(inside, root, storage, used))
    state = script_state(reading.tree, resolve, _Sources(path, root, inside).class_of)
    checks = tuple(check_of(path.name, member) for member in sorted(used.values(), key=lambda member: member.offset))
    return Layout(KIND, path, path.parent, (path.name,), {(): state.table}, odd=state.odd, checks=checks, foreign=foreign)


def _require_little(path: Path, order: Member | None) -> None:
    if order is not None and content(path, order, 64).strip() != b"little":
        raise Contradiction("its numbers are stored most significant byte first")


def _extent(inside: Mapping[str, Member], root: str, storage: Storage, used: dict[str, Member]) -> Extent:
    """Where a storage lies; notes its member."""
    name = f"{root}data/{storage.key}"
    member = inside.get(name)
    if member is None:
        raise Contradiction(f"its pickle asks for the storage {shown(storage.key)}, and there is no member {shown(name)}")
    if not member.stored:
        return Extent(0, 0, "compressed in the archive")
    if storage.numel * storage.width > member.length:
        raise Contradiction(f"the storage {shown(storage.key)} of {storage.numel * storage.width} bytes lies in {member.length}")
    used[name] = member
    return Extent(member.offset, member.length)
