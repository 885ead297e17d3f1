"""ONNX models: places of initializers, external data, and what the graph says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_cli.cli.app import main
from sparsify_cli.errors import SparsifyError, UnreadableFile
from sparsify_cli.formats import onnx_model
from sparsify_cli.formats.onnx_model import OnnxModel
from sparsify_cli.values.layout import Hint, Place

SHARED = Path(__file__).parents[3] / "../shared/data"
FORMAT = OnnxModel()


def array(*shape: int, kind: str = "float32") -> np.ndarray:
    """1, 2, 3 and so on."""
    return np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape).astype(kind)


def model(nodes: Sequence[Any], tensors: Sequence[Any], x: Sequence[int] = (1, 2), y: Sequence[int] | None = None) -> Any:
    """A message with these nodes and initializers, from x to y."""
    value = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    graph = helper.make_graph(nodes, "g", value, [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)], tensors)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def saved(path: Path, made: Any) -> Path:
    """The message as a file."""
    path.write_bytes(made.SerializeToString())
    return path


def one(path: Path, tensor: Any, *nodes: Any) -> Path:
    """A model with one initializer, taken by MatMul unless nodes are given."""
    return saved(path, model([*nodes] or [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor]))


def run(path: Path, x: np.ndarray) -> np.ndarray:
    """What onnxruntime computes."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def content(path: Path, place: Place) -> bytes:
    """The bytes at a place."""
    return (path.parent / place.file).read_bytes()[place.offset : place.end]


def refused(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(UnreadableFile) as caught:
        FORMAT.layout(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "uint8", "int64", "bool"])
def test_raw_numbers_lie_where_the_place_says(tmp_path: Path, kind: str) -> None:
    """The bytes at a place are the bytes of the array that was stored."""
    weight = array(2, 3, kind=kind)
    path = one(tmp_path / "m.onnx", numpy_helper.from_array(weight, "w"))
    place = FORMAT.layout(path).tables[()]["w"]
    assert (place.shape, place.dtype, content(path, place)) == ((2, 3), kind, weight.tobytes())


@pytest.mark.parametrize(("code", "word"), [(TensorProto.FLOAT, "float32"), (TensorProto.DOUBLE, "float64")])
def test_packed_floats_are_raw_numbers_too(tmp_path: Path, code: int, word: str) -> None:
    """float_data and double_data are little-endian numbers one after the other."""
    path = one(tmp_path / "m.onnx", helper.make_tensor("w", code, [2, 2], [1.0, 2.0, 3.0, 4.0]))
    place = FORMAT.layout(path).tables[()]["w"]
    assert (place.dtype, content(path, place)) == (word, np.array([1, 2, 3, 4], word).tobytes())


def test_a_scalar_and_an_empty_tensor_have_places_inside_the_file(tmp_path: Path) -> None:
    """Neither is damage: one number without sizes, and no numbers at all."""
    path = saved(tmp_path / "m.onnx", model([], [numpy_helper.from_array(array(), "s"), numpy_helper.from_array(array(0, 4), "e")]))
    places = FORMAT.layout(path).tables[()]
    assert (places["s"].shape, places["s"].nbytes, places["e"].shape, places["e"].nbytes) == ((), 4, (0, 4), 0)
    assert places["e"].offset < path.stat().st_size


def test_numbers_that_are_no_plain_run_are_odd(tmp_path: Path) -> None:
    """Halves as varints, text, 4-bit numbers, sparse tensors, floats one by one: each with its reason."""
    half = helper.make_tensor("half", TensorProto.FLOAT16, [2], [1.0, 2.0])
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"a"])
    small = helper.make_tensor("small", TensorProto.INT4, [2], b"\x21", raw=True)
    made = model([], [half, text, small])
    values, indices = numpy_helper.from_array(array(1), "sparse"), numpy_helper.from_array(array(1, kind="int64"), "")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    single = b"\x08\x01" + b"\x10\x01" + b"\x25\0\0\x80\x3f" + b"\x42\x06single"  # dims 1, float, float_data 1.0, name
    raw = made.SerializeToString() + b"\x3a" + bytes([len(single) + 2]) + b"\x2a" + bytes([len(single)]) + single
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    layout = FORMAT.layout(path)
    assert layout.tables == {(): {}}
    words = {"half": "varints", "text": "text", "small": "4-bit", "sparse": "sparse", "single": "one by one"}
    assert layout.odd.keys() == words.keys()
    assert all(word in layout.odd[name] for name, word in words.items())


def test_patched_weights_change_what_onnxruntime_computes_and_nothing_else(tmp_path: Path) -> None:
    """X = [1, 1] times [[1, 2], [3, 4]] is [4, 6]; with the 3 pruned it is [1, 6]."""
    path = one(tmp_path / "m.onnx", numpy_helper.from_array(array(2, 2), "w"))
    x = np.ones((1, 2), "float32")
    assert run(path, x).tolist() == [[4, 6]]
    before, at = path.read_bytes(), FORMAT.layout(path).tables[()]["w"].offset + 2 * 4
    path.write_bytes(before[:at] + bytes(4) + before[at + 4 :])
    assert run(path, x).tolist() == [[1, 6]]
    assert FORMAT.layout(path).checks == ()


def test_external_data_lie_in_their_file(tmp_path: Path) -> None:
    """Offsets of the model lead into the file beside it; a pruned number there changes what is computed."""
    made = model(
        [helper.make_node("MatMul", ["x", "a"], ["t"]), helper.make_node("MatMul", ["t", "b"], ["y"])],
        [numpy_helper.from_array(array(2, 2), name) for name in "ab"],
    )
    path = tmp_path / "m.onnx"
    onnx.save_model(made, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    layout = FORMAT.layout(path)
    assert layout.files == ("m.onnx", "m.bin")
    assert [(place.file, content(path, place)) for place in layout.tables[()].values()] == [("m.bin", array(2, 2).tobytes())] * 2
    beside = tmp_path / "m.bin"
    raw, at = beside.read_bytes(), layout.tables[()]["b"].offset
    beside.write_bytes(raw[:at] + bytes(4) + raw[at + 4 :])
    assert run(path, np.ones((1, 2), "float32")).tolist() == [[18, 32]]  # [4, 6] times [[0, 2], [3, 4]]


def external(path: Path, **entries: str) -> Path:
    """A model whose one weight lies in another file."""
    tensor = TensorProto(name="w", dims=[2, 2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return one(path, tensor)


@pytest.mark.parametrize("location", ["../w.bin", "/w.bin", "sub/../../w.bin", "C:\\w.bin", "link.bin", "", "absent.bin", "m.onnx", "sub"])
def test_external_data_outside_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    """No model reaches a file that does not lie beside it, nor itself."""
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (inside / "link.bin").symlink_to(tmp_path / "w.bin")
    assert "'w'" in refused(external(inside / "m.onnx", location=location))


def test_external_data_beside_a_linked_model_are_found(tmp_path: Path) -> None:
    """Caches keep files under other names and link to them: data that lie where the model really lies are its own."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "view").mkdir()
    external(tmp_path / "blobs/1", location="w.bin")
    (tmp_path / "blobs/2").write_bytes(array(2, 2).tobytes())
    for name, target in {"m.onnx": "1", "w.bin": "2"}.items():
        (tmp_path / "view" / name).symlink_to(tmp_path / "blobs" / target)
    assert FORMAT.layout(tmp_path / "view/m.onnx").tables[()]["w"] == Place("w.bin", 0, "float32", (2, 2))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"offset": "4"}, "ends at byte 20 of w.bin, which has 16"),
        ({"length": "8"}, "takes 16 bytes, and 8 are its own"),
        ({"length": "9" * 18}, "which has 16"),
        ({"offset": "-4"}, "has the offset '-4'"),
        ({"offset": "9" * 99}, "has the offset"),
    ],
)
def test_external_data_that_contradict_their_file_are_refused(tmp_path: Path, entries: dict[str, str], said: str) -> None:
    """Offset and length are checked against the file."""
    (tmp_path / "w.bin").write_bytes(bytes(16))
    assert said in refused(external(tmp_path / "m.onnx", location="w.bin", **entries))


def test_external_data_under_a_checksum_are_odd(tmp_path: Path) -> None:
    """A SHA-1 in the model would not hold any more."""
    (tmp_path / "w.bin").write_bytes(bytes(16))
    assert "SHA-1" in FORMAT.layout(external(tmp_path / "m.onnx", location="w.bin", checksum="0" * 40)).odd["w"]


def test_initializers_that_share_a_part_of_their_bytes_are_refused(tmp_path: Path) -> None:
    """All bytes shared are tied weights; some are a lie."""
    (tmp_path / "w.bin").write_bytes(bytes(20))
    for offset, good in {"0": True, "4": False}.items():
        made = onnx.load(str(external(tmp_path / "m.onnx", location="w.bin", offset="0")), load_external_data=False)
        other = onnx.load(str(external(tmp_path / "n.onnx", location="w.bin", offset=offset)), load_external_data=False)
        other.graph.initializer[0].name = "v"
        made.graph.initializer.append(other.graph.initializer[0])
        path = saved(tmp_path / "both.onnx", made)
        assert len(FORMAT.layout(path).tables[()]) == 2 if good else "share a part" in refused(path)


def test_shapes_types_and_bytes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Five ways for a tensor to lie about its numbers."""
    good = numpy_helper.from_array(array(2, 2), "w")
    lies = {
        "takes 24 bytes and holds 16": {"dims": [3, 2]},
        "takes 8589934592 bytes": {"dims": [2**31, 1]},
        "size -2": {"dims": [-2, 2]},
        "claims the shape": {"dims": [0, 2**62, 2]},
        "dimension 65": {"dims": [1] * 65},
    }
    for said, fields in lies.items():
        wrong = TensorProto(name="w", data_type=good.data_type, raw_data=good.raw_data, **fields)
        assert said in refused(one(tmp_path / "m.onnx", wrong))
    assert "holds 0" in refused(one(tmp_path / "m.onnx", TensorProto(name="w", data_type=1, dims=[2])))
    assert "fields 4" in refused(one(tmp_path / "m.onnx", TensorProto(name="w", data_type=7, dims=[1], float_data=[1.0, 2.0])))


NODE = helper.make_node
HINTS = [
    ([NODE("Conv", ["x", "w"], ["y"])], Hint("Conv")),
    ([NODE("ConvTranspose", ["x", "w"], ["y"])], Hint("ConvTranspose", transposed=True)),
    ([NODE("Gemm", ["x", "w"], ["y"])], Hint("Gemm", transposed=True)),
    ([NODE("Gemm", ["x", "w"], ["y"], transB=1)], Hint("Gemm")),
    ([NODE("Gemm", ["x", "x", "w"], ["y"])], Hint("Gemm input 2")),
    ([NODE("MatMul", ["x", "w"], ["y"])], Hint("MatMul", transposed=True)),
    ([NODE("MatMul", ["w", "x"], ["y"])], Hint("MatMul")),
    ([NODE("Gather", ["w", "x"], ["y"])], Hint("Gather")),
    ([NODE("LSTM", ["x", "x", "w"], ["y"])], Hint("LSTM")),
    ([NODE("Add", ["x", "w"], ["y"])], Hint("Add")),
    ([NODE("Identity", ["w"], ["y"])], Hint("Identity")),
    ([NODE("Transpose", ["w"], ["t"], perm=[1, 0]), NODE("MatMul", ["x", "t"], ["y"])], Hint("MatMul")),
    ([NODE("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]), NODE("Conv", ["x", "t"], ["y"])], Hint("Transpose")),
    ([NODE("Cast", ["w"], ["c"], to=1), NODE("Transpose", ["c"], ["t"]), NODE("Gemm", ["x", "t"], ["y"])], Hint("Gemm")),
    ([NODE("DequantizeLinear", ["w", "s"], ["d"]), NODE("Conv", ["x", "d"], ["y"])], Hint("Conv")),
    ([NODE("DequantizeLinear", ["x", "w"], ["d"]), NODE("Conv", ["x", "d"], ["y"])], Hint("DequantizeLinear")),
    ([NODE("Shape", ["w"], ["s"]), NODE("MatMul", ["x", "w"], ["y"])], Hint("MatMul", transposed=True)),
    ([NODE("MyLinear", ["x", "w"], ["y"], domain="my")], None),
    ([NODE("Identity", ["a"], ["w"]), NODE("Relu", ["x"], ["y"])], None),
]


@pytest.mark.parametrize(("nodes", "hint"), HINTS, ids=[" ".join(node.op_type for node in nodes) for nodes, _ in HINTS])
def test_the_operator_tells_what_a_weight_is(tmp_path: Path, nodes: list[Any], hint: Hint | None) -> None:
    """Orientation follows from the operator, its attributes, and a transposition on the way."""
    assert FORMAT.layout(one(tmp_path / "m.onnx", numpy_helper.from_array(array(2, 2), "w"), *nodes)).hints.get("w") == hint


def test_initializers_of_inner_graphs_count_and_constants_of_nodes_do_not(tmp_path: Path) -> None:
    """Both branches of an If bring weights; a name that both use is odd."""

    def branch(name: str) -> Any:
        tensors = [numpy_helper.from_array(array(2, 2), one) for one in (name, "both")]
        nodes = [NODE("Constant", [], ["c"], value=numpy_helper.from_array(array(2, 2), "v")), NODE("MatMul", ["x", name], [f"{name}y"])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}y", 1, None)], tensors)

    node = NODE("If", ["c"], ["y"], then_branch=branch("yes"), else_branch=branch("no"))
    layout = FORMAT.layout(saved(tmp_path / "m.onnx", model([node], [numpy_helper.from_array(array(1, kind="bool"), "c")])))
    assert sorted(layout.tables[()]) == ["c", "no", "yes"]
    assert layout.hints["yes"] == layout.hints["no"] == Hint("MatMul", transposed=True)
    assert layout.odd == {"both": "2 initializers have this name"}


def test_models_are_recognised_by_suffix_or_by_their_top_level(tmp_path: Path) -> None:
    """A model under another name is one, other files under `.onnx` are what they are."""
    raw = one(tmp_path / "m.onnx", numpy_helper.from_array(array(2, 2), "w")).read_bytes()
    for name, head, expected in [
        ("a.bin", raw, True),
        ("b.bin", raw[:-1], False),
        ("c.bin", raw + b"\x50\x01", False),
        ("d.onnx", raw[:-1], True),
        ("e.onnx", b"PK\x03\x04" + raw, False),
        ("f.onnx", bytes(8) + b'{"', False),
        ("g.bin", b"", False),
    ]:
        (tmp_path / name).write_bytes(head)
        assert FORMAT.recognises(tmp_path / name) is expected, name
    assert not FORMAT.recognises(tmp_path)


def test_metadata_are_those_of_the_model(tmp_path: Path) -> None:
    """Key and value as the exporter wrote them."""
    made = model([], [])
    made.metadata_props.add(key="author", value="somebody")
    assert FORMAT.layout(saved(tmp_path / "m.onnx", made)).metadata == {"author": "somebody"}


def test_deep_nests_and_crowds_of_empty_things_are_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand graphs within graphs are read without recursion; more nodes than the bound are refused."""

    def field(number: int, raw: bytes) -> bytes:
        length, size = len(raw), b""
        while length > 127:
            length, size = length >> 7, size + bytes([length & 127 | 128])
        return bytes([number << 3 | 2]) + size + bytes([length]) + raw

    inner = field(5, field(8, b"deep") + b"\x10\x01")  # an initializer without sizes, of type float, without numbers
    for _ in range(2000):
        inner = field(1, field(5, field(6, inner)))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08" + field(7, inner))
    assert "'deep' of the shape []" in refused(path)
    monkeypatch.setattr(onnx_model, "MOST_OBJECTS", 100)
    path.write_bytes(b"\x08\x08" + field(7, b"\x0a\x00" * 102))
    assert "more than 100 nodes" in refused(path)


def test_no_mutation_escapes_as_anything_but_a_sentence(tmp_path: Path) -> None:
    """Flipped bytes and cut tails: a layout whose places lie inside, or an error of ours."""
    nodes = [NODE("Transpose", ["a"], ["t"], perm=[1, 0]), NODE("MatMul", ["x", "t"], ["y"])]
    made = model(nodes, [numpy_helper.from_array(array(2, 2), "a"), helper.make_tensor("b", TensorProto.FLOAT, [2], [1.0, 2.0])])
    raw, path, generator, outcomes = made.SerializeToString(), tmp_path / "m.onnx", random.Random(0), set()
    for _ in range(400):
        mutated = bytearray(raw[: generator.choice([len(raw), generator.randrange(1, len(raw))])])
        for _ in range(generator.randrange(4)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        path.write_bytes(mutated)
        FORMAT.recognises(path)
        try:
            places = FORMAT.layout(path).tables[()].values()
            outcomes.add(all(0 <= place.offset <= place.end <= len(mutated) for place in places))
        except SparsifyError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}


def test_a_published_model_reads_as_onnx_reads_it() -> None:
    """The vision transformer: 50 initializers, their bytes, 13 matrices and one convolution."""
    path = SHARED / "ckpt_cifar10/vit_pgd_2_3_16.onnx"
    if not path.is_file():
        pytest.skip("the published checkpoints are not beside this folder")
    layout = FORMAT.layout(path)
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    places = layout.tables[()]
    assert places.keys() == expected.keys() and len(places) == 50
    assert all(content(path, places[name]) == value.tobytes() and places[name].shape == value.shape for name, value in expected.items())
    said = [hint.operator for hint in layout.hints.values()]
    assert (said.count("MatMul"), said.count("Gemm"), said.count("Conv")) == (12, 1, 1)


def test_a_pointer_with_the_name_of_a_model(tmp_path: Path) -> None:
    """A pointer of Git LFS is no damaged model."""
    (tmp_path / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert not FORMAT.recognises(tmp_path / "m.onnx")


def spread(path: Path, nodes: Sequence[Any], tensors: Sequence[Any]) -> None:
    """A model whose tensors, in the order of `onnx`, lie in `data/0.bin`, `data/1.bin` and so on."""
    (path.parent / "data").mkdir(exist_ok=True)
    made = model(nodes, tensors)
    for number, tensor in enumerate(onnx.external_data_helper._get_all_tensors(made)):
        (path.parent / f"data/{number}.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"data/{number}.bin")
    saved(path, made)


def test_files_of_constants_and_odd_initializers_go_along(tmp_path: Path) -> None:
    """A Constant's file, one in a branch and that of 4-bit numbers hold no place, and are needed to load the model."""
    odd = helper.make_tensor("q", TensorProto.INT4, [2], b"\x21", raw=True)
    branch = helper.make_graph([helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(array(2), "b"))], "g", [], [])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(array(2), "c")),
        helper.make_node("If", ["x"], ["z"], then_branch=branch),
    ]
    spread(tmp_path / "m.onnx", nodes, [numpy_helper.from_array(array(2, 2), "w"), odd])
    found = FORMAT.layout(tmp_path / "m.onnx")
    assert found.files == ("m.onnx", "data/0.bin")
    assert sorted(found.companions) == ["data/1.bin", "data/2.bin", "data/3.bin"]
    (tmp_path / "data/3.bin").unlink()
    assert "no such file" in refused(tmp_path / "m.onnx")


def test_files_of_sparse_initializers_and_functions_go_along(tmp_path: Path) -> None:
    """Values and indices of a sparse initializer, and a Constant in a function of the model, lie in files of their own."""
    parts = [numpy_helper.from_array(array(2), "s"), numpy_helper.from_array(np.array([0, 3]), "i")]
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(array(2), "k"))
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(array(2, 2), "w")])
    made.functions.append(helper.make_function("own", "f", [], ["k"], [constant], [helper.make_opsetid("", 17)]))
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(*parts, [4]))
    sparse = made.graph.sparse_initializer[0]
    for name, tensor in (("s", sparse.values), ("i", sparse.indices), ("k", made.functions[0].node[0].attribute[0].t)):
        (tmp_path / name).write_bytes(tensor.raw_data)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
    found = FORMAT.layout(saved(tmp_path / "m.onnx", made))
    assert (sorted(found.companions), found.odd) == (["i", "k", "s"], {"s": "stored sparse"})


def test_a_pruned_model_loads_with_its_external_constants(tmp_path: Path) -> None:
    """Weights and a Constant in files of a folder beside the model: pruned in one command, and onnxruntime runs the result."""
    nodes = [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(array(2), "c"))]
    nodes += [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "c"], ["y"])]
    spread(tmp_path / "m.onnx", nodes, [numpy_helper.from_array(array(2, 2), "w")])
    assert main(["prune", str(tmp_path / "m.onnx"), "--sparsity", "0.5", "--out", str(tmp_path / "out")]) == 0
    x = np.array([[1, 1]], dtype=np.float32)
    assert run(tmp_path / "m.onnx", x).tolist() == [[5, 8]]
    assert run(tmp_path / "out/m.onnx", x).tolist() == [[4, 6]]  # [[1, 2], [3, 4]] without 1 and 2
