"""Names of code that torch's checkpoints mention: which are harmless, and the sentence for a file that mentions others.

Nothing is run here whatever a file names; but whoever loads the result runs what it names, so a file that names more than
plain data is refused unless the user says that it is trusted.

Source: what `torch.load(weights_only=True)` allows in torch 2.13 (`torch._weights_only_unpickler._get_allowed_globals`). We
also allow names that only hold data: argparse.Namespace, paths, dates, NumPy's numbers and arrays, plain Python types.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sparsify_cli.errors import UnsafePickle
from sparsify_cli.values.layout import WIDTHS
from sparsify_cli.values.pickle_tree import Call, Tree

STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"},
    **{"ComplexDouble": "complex128", "ComplexFloat": "complex64", "Untyped": "uint8"},
}
"""What torch calls a storage, without the word Storage -> type of its numbers."""

QUANTIZED = {"QInt8": 1, "QInt32": 4, "QUInt8": 1, "QUInt4x2": 1, "QUInt2x4": 1}
"""The same of quantized numbers -> bytes each."""

REBUILT = (
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state"),
    *("_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage", "_rebuild_nested_tensor", "_rebuild_xla_tensor"),
    *("_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor"),
)

QSCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams")

ODD_TYPES = (
    *("complex32", "float4_e2m1fn_x2", "bits1x8", "bits2x4", "bits4x2", "bits8", "bits16"),
    *("qint8", "qint32", "quint8", "quint4x2", "quint2x4"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
)

NUMPY_TYPES = (
    *(
        "ndarray",
        "dtype",
        "bool_",
        "bool",
        "str_",
        "bytes_",
        "void",
        "float16",
        "float32",
        "float64",
        "longdouble",
        "complex64",
        "complex128",
    ),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)

PYTHON = (
    *(f"builtins.{word}" for word in ("set", "frozenset", "bytearray", "bytes", "complex", "int", "float", "bool", "str")),
    *(f"builtins.{word}" for word in ("list", "tuple", "dict", "slice", "range", "object")),
    *(f"collections.{word}" for word in ("OrderedDict", "Counter", "defaultdict", "deque")),
    *(f"pathlib.{word}" for word in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{word}" for word in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{word}" for word in ("datetime", "date", "time", "timedelta", "timezone")),
    *("argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "_codecs.encode"),
    *("copyreg._reconstructor", "copyreg.__newobj__"),
)

NUMPY = (
    *(f"numpy.{word}" for word in NUMPY_TYPES),
    *(f"numpy.{core}.multiarray.{word}" for core in ("core", "_core") for word in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.dtypes.{word}{bits}DType" for word in ("Float", "Int", "UInt") for bits in (8, 16, 32, 64)),
    *(f"numpy.dtypes.{word}DType" for word in ("Bool", "Str", "Bytes", "Complex64", "Complex128")),
)

TORCH = (
    *(f"torch.{place}{word}Storage" for place in ("", "cuda.") for word in (*STORAGES, *QUANTIZED)),
    *(f"torch.{place}{word}Tensor" for place in ("", "cuda.", "sparse.", "cuda.sparse.") for word in STORAGES),
    *(f"torch.storage.{word}Storage" for word in ("Typed", "Untyped", "_Untyped", "_Typed")),
    *(f"torch._utils.{word}" for word in REBUILT),
    *(f"torch.{word}" for word in (*WIDTHS, *ODD_TYPES, *QSCHEMES, "Size", "Tensor", "device")),
    *("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.serialization._get_layout"),
    *("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable", "torch.torch_version.TorchVersion"),
)

HARMLESS = frozenset((*PYTHON, *NUMPY, *TORCH))
"""Names that a checkpoint may mention and hold nothing but data."""

MODULE_STATE = ("_parameters", "_buffers", "_modules")
"""What the state of every torch.nn.Module has."""


def require_harmless(path: Path, names: Iterable[str], tree: Tree, *, trust: bool) -> tuple[str, ...]:
    """The names among `names` that are not harmless, in order.

    Raises:
        UnsafePickle: there are some, and the user did not say that the file is trusted.
    """
    foreign = tuple(name for name in names if name not in HARMLESS)
    if not foreign or trust:
        return foreign
    more = f" and {len(foreign) - 4} more" if len(foreign) > 4 else ""
    network = _network(tree)
    raise UnsafePickle(
        f"{path} is a pickle that needs code to be read: {', '.join(map(_short, foreign[:4]))}{more}.",
        f"{network} Running it could do anything on this machine, so it is refused.".lstrip(),
        "In the program that made it, save model.state_dict() and pass that file. Or add --trust-pickle: the tensors are read"
        " without running anything and the rest of the pickle is copied unchanged, so whoever loads the result runs what it names.",
    )


def module_state(node: Tree) -> dict[Tree, Tree] | None:
    """The attributes of a whole pickled network; None for anything else."""
    state = node.state if isinstance(node, Call) else None
    if isinstance(state, tuple) and len(state) == 2:
        state = state[0]
    return state if isinstance(state, dict) and all(key in state for key in MODULE_STATE) else None


def _network(tree: Tree) -> str:
    """A sentence on the whole pickled network in a file, at the top or one entry below it."""
    entries = tree.items() if isinstance(tree, dict) else tree.items if isinstance(tree, Call) else ()
    found = [(f"Its entry {key!r}", value) for key, value in entries if isinstance(key, str) and module_state(value) is not None]
    if module_state(tree) is not None:
        found = [("It", tree)]
    return next((f"{what} is a whole pickled network of the class {_short(node.name)}, not its tensors alone." for what, node in found), "")


def _short(name: str) -> str:
    """A name of a hostile file that does not fill the screen."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name[:120])
    return plain or "a class without a name"
