"""The seal of an exported ONNX file."""

import hashlib
from pathlib import Path

import numpy
import onnx

from sparsify_cli.values.layout import Layout, Place
from sparsify_cli.values.onnx_seal import holds, seal_check, sealed
from sparsify_cli.values.patch_file import write_patched


def test_a_seal_is_metadata_at_the_end() -> None:
    """ONNX reads it as an entry; it is the SHA-256 of what stands before; it holds until a byte changes."""
    body = onnx.ModelProto(ir_version=9, producer_name="x").SerializeToString()
    content = sealed(body)
    (entry,) = onnx.load_model_from_string(content).metadata_props
    assert (entry.key, entry.value) == ("sparsify.sha256", hashlib.sha256(body).hexdigest())
    assert holds(content)
    assert not [at for at in range(len(content)) if holds(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])]
    assert not holds(body) and not holds(b"")


def test_a_seal_is_renewed_when_numbers_change(tmp_path: Path) -> None:
    """A patched copy has the seal of its own content; a file without a seal has nothing to renew."""
    (tmp_path / "plain").write_bytes(bytes(100))
    (tmp_path / "short").write_bytes(b"x")
    assert seal_check(tmp_path / "plain") == seal_check(tmp_path / "short") == ()
    (tmp_path / "m.onnx").write_bytes(sealed(bytes(range(8))))
    place = Place("m.onnx", 2, "uint8", (3,))
    layout = Layout("onnx-model", tmp_path / "m.onnx", tmp_path, ("m.onnx",), {(): {"w": place}}, checks=seal_check(tmp_path / "m.onnx"))
    (tmp_path / "out").mkdir()
    write_patched(layout, tmp_path / "out", {"w": (place, numpy.array([7, 7, 7], dtype=numpy.uint8))})
    assert (tmp_path / "out/m.onnx").read_bytes() == sealed(bytes([0, 1, 7, 7, 7, 5, 6, 7]))
